"""Pixels, models and masks: what runs where the work is done."""
