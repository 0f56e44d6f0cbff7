"""The pointing game on `shapes`: how often attention at a shape word lies on such a shape.

    python -m experiments.pointing --workdir runs/shapes_transformer

At every singular shape word of a true caption, the attention's maximum is a hit if it lies on an
object of that shape (Zhang et al. 2018, "Top-down neural attention by excitation backprop", section
4.2). The chance level scores the same maxima against other images.
"""

import argparse

import numpy as np

import capjax
from capjax.cli.log import show_log
from capjax.data.sections import open_source
from capjax.data.shapes.draw import object_mask
from capjax.data.shapes.facts import is_true
from capjax.data.shapes.scene import SHAPES, SIZE, Scene, scene_of
from capjax.evaluate.attention_maps import word_maps


def hits(scene: Scene, shape: str, heat: np.ndarray) -> bool:
    """Tells whether the maximum of heat [SIZE, SIZE] lies on an object of the shape."""
    place = np.unravel_index(heat.argmax(), heat.shape)
    masks = [object_mask(scene, thing) for thing in scene.things if thing.shape == shape]
    return any(mask[place] for mask in masks)


def pointing(workdir: str, images: int) -> dict[str, float]:
    """Computes the hit rates over the first validation images, in true captions only.

    Returns:
      pointing, chance: hit rates with the image and with another one.
      words: number of shape words.
      true_captions, captions: number of captions whose words count, and of all.
    """
    run = capjax.load(workdir)
    source = open_source(run.config.dataset, "validation")
    examples = [source[index] for index in range(min(images, len(source)))]
    captions = run.caption([example.image for example in examples], attention=True)
    scenes = [scene_of(example.image_id) for example in examples]
    found, chance, true = [], [], 0
    for number, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
        if not is_true(caption.text, scene):
            continue
        true += 1
        other = scenes[(number + 1) % len(scenes)]
        for word, heat in zip(caption.words, word_maps(caption, (SIZE, SIZE)), strict=True):
            if word in SHAPES:
                found.append(hits(scene, word, heat))
                chance.append(hits(other, word, heat))
    return {
        "pointing": np.mean(found),
        "chance": np.mean(chance),
        "words": len(found),
        "true_captions": true,
        "captions": len(captions),
    }


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", default="runs/shapes_transformer", help="folder of the run")
    parser.add_argument("--images", type=int, default=300, help="number of validation images")
    arguments = parser.parse_args()
    show_log()
    found = pointing(arguments.workdir, arguments.images)
    print(" ".join(f"{name}={value:.3g}" for name, value in found.items()))
    print("Only words of true captions count: a wrong word has nothing to point at.")


if __name__ == "__main__":
    main()
