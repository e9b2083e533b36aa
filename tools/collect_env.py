#!/usr/bin/env python
"""Print the versions and devices that a report of a bug needs."""

import argparse

from command_line import exit_on_user_error, prepare


def main() -> None:
    prepare()
    argparse.ArgumentParser(description=__doc__).parse_args()
    with exit_on_user_error():
        import mmhybrid

        for name, value in mmhybrid.collect_env().items():
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
