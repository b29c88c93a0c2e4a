"""``python -m nngpt_lab`` is ``nngpt-lab``."""

from nngpt_lab.cli import main

if __name__ == "__main__":
    main()
