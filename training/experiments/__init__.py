"""One function per run; its docstring holds the command, the duration and the measured result."""
