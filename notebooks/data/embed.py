"""Make `questions.npz` anew, after `questions.jsonl` was changed.

pip install sentence-transformers
python notebooks/data/embed.py                          all-MiniLM-L6-v2 from its hub
python notebooks/data/embed.py --model path/to/it       from this machine
"""

from __future__ import annotations

import argparse

import numpy as np
from questions import HERE, Vectors, texts
from sentence_transformers import SentenceTransformer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=f"sentence-transformers/{Vectors.model}")
    model = SentenceTransformer(parser.parse_args().model, device="cpu")
    vectors = model.encode(texts(), normalize_embeddings=True).astype(np.float16)
    np.savez_compressed(HERE / "questions.npz", vectors=vectors)
    print(f"{vectors.shape[0]} vectors of {vectors.shape[1]} numbers")


if __name__ == "__main__":
    main()
