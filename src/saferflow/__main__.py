"""`python -m saferflow`."""

from saferflow.commands import main

if __name__ == "__main__":
    main()
