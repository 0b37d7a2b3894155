"""`python -m tests.engine.tiny_run` is train_net.py with the tiny model, for tests that kill its processes."""

from argparse import Namespace

import train_net
from defcn_ext.engine.processes import run_in_processes
from tests.engine.tiny import TinyTrainer


def main(args: Namespace) -> dict:
    train_net.Trainer = TinyTrainer
    return train_net.main(args)


if __name__ == "__main__":
    arguments = train_net.parse()
    train_net.prepare(arguments)
    run_in_processes(main, arguments)
