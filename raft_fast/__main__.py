"""`python -m raft_fast` is no command itself: it names those that are."""

from raft_fast.run.errors import UserError, entry


@entry
def main() -> None:
    raise UserError("name a command: python -m raft_fast.train, raft_fast.refine, raft_fast.evaluate or "
                    "raft_fast.paraphrase; each explains its options with --help")


if __name__ == "__main__":
    main()
