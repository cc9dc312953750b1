"""Converts other people's state dicts to the variables of our generators, one file per source."""

from checkpoints_tools.converters import (
    biggan,
    biggan_hf,
    dcgan,
    fastgan,
    galaxygrad,
    mimicry,
    progan,
    r3gan,
    studiogan,
    stylegan2,
    stylegan2_layouts,
    stylegan2_lucidrains,
    stylegan3,
)
from checkpoints_tools.converters.conversion import Converted, convert_state
from checkpoints_tools.converters.origin import Source

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        stylegan2.SOURCE, stylegan2_layouts.ROSINALITY, stylegan2_layouts.BASICSR,
        stylegan2_layouts.MMGENERATION, stylegan2_layouts.GENFORCE, stylegan2_layouts.TENSORFLOW,
        stylegan2_lucidrains.SOURCE, stylegan3.SOURCE, stylegan3.XL, biggan.SOURCE,
        biggan.SOURCE_DEEP, biggan_hf.SOURCE, studiogan.BIGGAN, studiogan.SNGAN, mimicry.SOURCE,
        progan.SOURCE, r3gan.SOURCE, fastgan.SOURCE, galaxygrad.SOURCE,
        dcgan.SOURCE,  # last: it looks at shapes alone
    )
}  # fmt: skip

__all__ = ["SOURCES", "Converted", "convert_state"]
