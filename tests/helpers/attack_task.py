"""What a zygote imports to be attacked: the trusted task that runs a candidate's code, and nothing that takes long."""

from __future__ import annotations


def execute(payload, shared):
    """Run the code; what it left in ``value`` says whether it got through."""
    space = {"P": payload, "__name__": "candidate"}
    exec(compile(payload["code"], "candidate", "exec"), space)
    return space.get("value"), {}
