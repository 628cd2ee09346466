"""Does a bare client environment hold nothing heavy, and write and read all the same?

usage: python -I .ci/thin_client.py HOST:PORT
"""

import importlib.metadata
import sys

import numpy as np
import ziggurat

HEAVY = {"zarr", "cupy", "pydantic", "dask", "numcodecs", "numba", "tensorstore", "scipy"}
HEAVY |= {"napari", "npe2", "pandas", "xarray"}
OURS = {"ziggurat-client", "ziggurat-proto"}


def main(address: str) -> None:
    """Looks at what is installed and loaded; sends an image and reads it back."""
    names = (found.metadata["Name"] for found in importlib.metadata.distributions())
    installed = {name.lower().replace("_", "-") for name in names}
    if heavy := {name for name in installed if name.split("-")[0] in HEAVY}:
        sys.exit(f"installed with the client: {', '.join(sorted(heavy))}")
    if "ziggurat-engine" in installed or not installed >= OURS:
        sys.exit(f"installed: {', '.join(sorted(installed))}")
    if "site-packages" not in (ziggurat.__file__ or ""):
        sys.exit(f"not the installed client: {ziggurat.__file__}")

    pixels = np.arange(5 * 70 * 90, dtype=np.uint16).reshape(5, 70, 90)
    with ziggurat.connect(address) as client:
        image = client.create(
            "ci/thin", axes="zyx", shape=pixels.shape, dtype="uint16", chunk_shape=(2, 32, 32)
        )
        with image.writer() as writer:
            for z, frame in enumerate(pixels):
                writer.write(frame, z=z)
            writer.flush(60)
        if not np.array_equal(image[...], pixels):
            sys.exit("what was read is not what was written")
        if image.level(1)[0, 0, 0] != np.rint(pixels[:2, :2, :2].mean()):
            sys.exit("level 1 is not the mean of level 0")
        client.delete("ci/thin")
    if loaded := HEAVY & sys.modules.keys():
        sys.exit(f"loaded by the client: {', '.join(sorted(loaded))}")
    sys.stdout.write(f"{len(installed)} packages: {', '.join(sorted(installed))}\n")


if __name__ == "__main__":
    main(sys.argv[1])
