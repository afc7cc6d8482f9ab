"""Reports: answers as text for people."""
