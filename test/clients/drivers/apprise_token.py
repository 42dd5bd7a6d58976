"""Apprise as a library: it sends the lines of its input, each as one notification."""

import importlib.util
import os
import sys

import apprise

if importlib.util.find_spec("cryptography"):
    sys.exit("Apprise could encrypt")

notifier = apprise.Apprise()
notifier.add(os.environ["TO"])
for line in sys.stdin:
    text = line.rstrip("\n")
    if not notifier.notify(body=text):
        sys.exit(f"{text} was not sent")
    print("sent", text)
