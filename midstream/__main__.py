"""``python -m midstream`` is the command ``midstream``."""

from midstream.cli.main import main

main()
