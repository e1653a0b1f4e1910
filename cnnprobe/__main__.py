"""`python -m cnnprobe` is `cnnprobe`."""

from cnnprobe.cli import main

if __name__ == "__main__":
    main(prog_name="cnnprobe")
