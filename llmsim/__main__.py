"""``python -m llmsim``."""

from .cli import main

main()
