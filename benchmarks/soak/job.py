"""A wave's job, for the head: blocks of bytes made on workers, and digests of neighbouring blocks made of them.

A block is too large to travel with an answer, so it lives on the node that made it, and Ray makes it again when that
node goes. Prints ``WAVE BEGAN``, and ``WAVE RESULT`` with one digest of all digests and the number of nodes that made
them.
"""

from __future__ import annotations

import argparse
import hashlib
import time

import ray

BLOCK_BYTES = 300_000
# As people do whose nodes may be preempted: tries are not counted.
_ON_A_WORKER = ray.remote(num_cpus=1, max_retries=-1)


def make_block(seed: int, number: int, seconds: float) -> bytes:
    time.sleep(seconds)
    return hashlib.shake_256(f"{seed}:{number}".encode()).digest(BLOCK_BYTES)


def make_digest(left: bytes, right: bytes, seconds: float) -> tuple[str, str]:
    """The digest, and where it was made."""
    time.sleep(seconds)
    return hashlib.sha256(left + right).hexdigest(), ray.util.get_node_ip_address()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    print("WAVE BEGAN", flush=True)
    block, digest = _ON_A_WORKER(make_block), _ON_A_WORKER(make_digest)
    blocks = [block.remote(options.seed, number, options.seconds) for number in range(options.tasks)]
    after = [*blocks[1:], blocks[0]]
    pairs = [digest.remote(left, right, options.seconds / 2) for left, right in zip(blocks, after, strict=True)]
    done = ray.get(pairs)
    whole = hashlib.sha256("".join(one for one, _place in done).encode()).hexdigest()
    print(f"WAVE RESULT {whole} {len({place for _one, place in done})}", flush=True)


if __name__ == "__main__":
    main()
