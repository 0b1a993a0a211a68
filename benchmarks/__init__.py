"""What the project is measured by. Run, never installed: `python -m benchmarks.stream --help`."""
