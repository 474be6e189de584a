"""`python -m gateway` is the same program as `invoca-gateway`."""

from gateway.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
