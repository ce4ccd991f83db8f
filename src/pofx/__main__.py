"""`python -m pofx` is `pofx`."""

from pofx.cli import main

raise SystemExit(main())
