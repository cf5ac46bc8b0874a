"""Uploads a file with tuspy: half of it, then, as a new client, the rest. Prints where it lies and its digest."""

import hashlib
import json
import os
import sys

from tusclient import client


def main(endpoint: str, token: str, path: str) -> None:
    tus = client.TusClient(endpoint, headers={"Authorization": f"Bearer {token}"})
    options = {"chunk_size": 100_000, "metadata": {"filename": os.path.basename(path)}}
    first = tus.uploader(path, **options)
    first.upload(stop_at=400_000)
    second = client.TusClient(endpoint, headers={"Authorization": f"Bearer {token}"}).uploader(
        path, url=first.url, **options
    )
    assert second.offset == 400_000, second.offset
    second.upload()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    print(json.dumps({"url": first.url, "sha256": digest}))


if __name__ == "__main__":
    main(*sys.argv[1:])
