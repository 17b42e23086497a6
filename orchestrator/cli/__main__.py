"""`python -m orchestrator.cli` is `meansweep`."""

from orchestrator.cli.main import main

if __name__ == "__main__":
    main()
