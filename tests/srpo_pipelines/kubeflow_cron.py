"""The grammar of Kubeflow's cron library, github.com/robfig/cron v1.2.0 (its documentation and parser.go).

Seconds come first, the day of the week may be left out, and there is no time zone.
"""

import re

BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
NAMES = ({}, {}, {}, {}, dict(zip(MONTHS, range(1, 13), strict=True)), dict(zip(DAYS, range(7), strict=True)))
DESCRIPTORS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
EVERY = re.compile(r"@every ([0-9]+(\.[0-9]*)?(ns|us|ms|s|m|h))+")
PART = re.compile(r"(?P<low>[*?]|\w+)(-(?P<high>\w+))?(/(?P<step>[0-9]+))?")


def refused_cron(text):
    """What the library says of a cron expression, or None."""
    if text.startswith("@"):
        return None if text in DESCRIPTORS or EVERY.fullmatch(text) else f"Unrecognized descriptor: {text}"
    fields = text.split()
    if len(fields) not in (5, 6):
        return f"Expected 5 to 6 fields, found {len(fields)}: {text}"
    for field, (low, high), names in zip(fields, BOUNDS, NAMES, strict=False):
        for part in filter(None, field.split(",")):
            found = PART.fullmatch(part)
            if not found:
                return f"Failed to parse int from {part}"
            ends = [
                names.get(end.lower(), end) for end in filter(None, (found["low"], found["high"])) if end not in "*?"
            ]
            if not all(str(end).isdigit() and low <= int(end) <= high for end in ends) or found["step"] == "0":
                return f"Failed to parse {part}: from {low} to {high}"
            if [int(end) for end in ends] != sorted(int(end) for end in ends):
                return f"Beginning of range beyond end of range: {part}"
    return None
