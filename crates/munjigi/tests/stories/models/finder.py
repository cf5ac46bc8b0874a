"""A tool that writes SARIF: each line with `eval`. With `broken` in a file's name it writes none."""
import json
import os
import sys

results = []
for folder, _, names in os.walk("."):
    for name in names:
        if "broken" in name:
            print("{\"version\": \"2.1.0\", \"runs\": [")
            print("the rules are wrong", file=sys.stderr)
            sys.exit(0)
        path = os.path.join(folder, name)
        for number, line in enumerate(open(path), 1):
            if "eval" in line:
                results.append({
                    "ruleId": "py.eval",
                    "message": {"text": "evaluates"},
                    "locations": [{"physicalLocation": {
                        "artifactLocation": {"uri": path},
                        "region": {"startLine": number},
                    }}],
                })

# What the sandbox keeps from a tool is kept from this one.
reached = []
for path in ["/etc/passwd", "/proc/1/environ"]:
    try:
        open(path).read(1)
        reached.append(path)
    except OSError:
        pass
try:
    import socket
    socket.socket()
    reached.append("a socket")
except OSError:
    pass

rules = [{"id": "py.eval", "defaultConfiguration": {"level": "error"}, "properties": {"tags": ["CWE-95"]}}]
driver = {"name": "finder", "rules": rules, "properties": {"reached": reached}}
json.dump({"version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}, open(sys.argv[1], "w"))
sys.exit(1)
