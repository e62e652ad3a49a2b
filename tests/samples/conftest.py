"""Makes the scripts of samples/tiny_video_dit importable by their plain names."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "samples" / "tiny_video_dit"))
