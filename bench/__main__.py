"""`python -m bench`."""

from bench.cli.commands import main

if __name__ == "__main__":
    main()
