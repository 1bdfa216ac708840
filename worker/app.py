"""The Celery application of a fleet worker: `celery -A worker.app worker` runs it."""

from __future__ import annotations

import os

from tasks.messages import make_app

app = make_app(os.environ.get("MASKMILL_BROKER_URL", "redis://localhost:6379/0"))
