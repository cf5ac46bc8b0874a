"""A model of the model protocol that takes its time: as many seconds as the input file says, then a large artifact.

Input, one line of text: `seconds=12 mib=40 [fail]`.
"""

import json
import os
import select
import sys
import time


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def cancelled():
    ready, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(ready) and '"cancel"' in sys.stdin.readline()


def finding(number):
    place = {"artifactLocation": {"uri": "input.txt"}, "region": {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2}}
    return {
        "ruleId": "slow/tick",
        "kind": "fail",
        "level": "warning",
        "message": {"text": f"tick {number}"},
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {"munjigi/v1": f"tick-{number}"},
    }


def analyze(order):
    with open(order["input"], encoding="utf-8") as file:
        words = dict(word.split("=") for word in file.readline().split() if "=" in word)
    ticks = int(float(words.get("seconds", 1)) * 5)
    for tick in range(ticks):
        if cancelled():
            return say(type="error", message="cancelled")
        say(type="progress", phase="tick", done=tick, total=ticks, unit="ticks")
        if tick % 5 == 0:
            say(type="finding", result=finding(tick // 5))
        time.sleep(0.2)
    path = os.path.join(order["output"], "ballast.bin")
    with open(path, "wb") as file:
        for _ in range(int(words.get("mib", 1))):
            file.write(os.urandom(1 << 20))
    say(type="artifact", path="ballast.bin")
    say(type="done")


def main():
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "describe":
            say(type="description", id="slow", version="1", accepts=["*/*"], explains=[], streaming=False)
        elif message["type"] == "analyze":
            analyze(message)


main()
