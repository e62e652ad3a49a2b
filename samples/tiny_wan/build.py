"""The pipeline diffusers loads: tokenizer, text encoder, transformer, VAE, scheduler.

    python -m samples.tiny_wan.build OUTPUT

writes one with a random transformer. The trained one is in `samples/tiny_wan/pipeline`.
"""

from pathlib import Path
from typing import Annotated

import typer
from diffusers import UniPCMultistepScheduler, WanPipeline

from .flow import FLOW_SHIFT, build_transformer
from .text import build_text_encoder, build_tokenizer
from .vae import build_vae

PIPELINE_DIR = Path(__file__).resolve().parent / "pipeline"


def build_pipeline() -> WanPipeline:
    """The pipeline with a transformer of random weights; everything else is final."""
    tokenizer = build_tokenizer()
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(tokenizer),
        transformer=build_transformer(),
        vae=build_vae(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
        ),
    )


def save_pipeline(pipeline: WanPipeline, directory: Path) -> None:
    """Writes `pipeline`, its transformer in FP16; the pipeline's own stays FP32."""
    pipeline.transformer.half()
    pipeline.save_pretrained(directory)
    pipeline.transformer.float()


def main(
    output: Annotated[Path, typer.Argument(help="directory to write")],
) -> None:
    """Write a pipeline with a random transformer."""
    save_pipeline(build_pipeline(), output)


if __name__ == "__main__":
    typer.run(main)
