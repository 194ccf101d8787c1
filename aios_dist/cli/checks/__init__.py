"""What ``aios-dist doctor`` looks at. Each check gives findings; what is wrong comes with its fix."""

from aios_dist.cli.checks.finding import Finding, Level

__all__ = ["Finding", "Level"]
