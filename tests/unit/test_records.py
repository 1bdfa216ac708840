"""What the records need of msgspec."""

import subprocess
import sys

# Without the preparation, the decoder asks msgspec for the types of the fields.
FIRST_DECODE = """
import msgspec
import tasks.records as records

def asked(*types):
    raise AssertionError(f"{types} are taken apart only now")

msgspec._utils._eval_type = asked
for kind in (records.Item, records.Job, records.Shard, records.Attempt):
    try:
        msgspec.json.decode(b"{}", type=kind)
    except msgspec.ValidationError:
        pass
"""


def test_the_records_are_ready_for_threads_to_decode() -> None:
    subprocess.run([sys.executable, "-c", FIRST_DECODE], check=True)
