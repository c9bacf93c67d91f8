"""What a BiRefNet is made of."""

from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """All parts of a BiRefNet but its backbone, as plain values. Defaults are the publication's.

    The fields have the names of the config. The paper (arXiv 2401.03407) and the field, the keys
    of published checkpoints, and the modules of this package have other words for the same things:

    | field of Config          | paper, field             | official keys       | module here      |
    |--------------------------|--------------------------|---------------------|------------------|
    | bb (apart from this)     | encoder, backbone        | bb                  | encoder.backbone |
    | mul_scl_ipt              | image pyramid            | (none)              | Encoder.pyramid  |
    | cxt_num                  | context                  | (none)              | Context          |
    | squeeze_block            | ASPP after the encoder   | squeeze_module.i    | squeeze          |
    | auxiliary_classification | auxiliary classification | cls_head            | class_head       |
    | num_classes              | classes of that head     | cls_head            | class_head       |
    | dec_blk                  | reconstruction block     | decoder_block{n}    | level.block      |
    | dec_att                  | deformable ASPP          | dec_att             | block.attention  |
    | deform_kernels           | sizes of its receptive   | aspp_deforms.i      | deformable       |
    |                          | fields                   |                     |                  |
    | dec_channels_inter       | width inside a block     | conv_in             | block.conv_in    |
    | dec_ipt, dec_ipt_levels  | inward reference         | ipt_blk{n}          | level.reference  |
    | dec_ipt_split            | patches of the image     | (none)              | ImageView        |
    | ms_supervision           | multi-stage supervision  | conv_ms_spvn_{n}    | level.side       |
    | out_ref, out_ref_levels  | outward reference,       | gdt_convs_{n},      | level.outward    |
    |                          | gradient supervision     | gdt_convs_pred_{n}, |                  |
    |                          |                          | gdt_convs_attn_{n}  |                  |
    | (always)                 | lateral connection       | lateral_block{n}    | level.lateral    |

    The published code numbers levels: block n works at stride 2 ** (n + 1) for n = 4..1, and the
    inward reference n joins at stride 2 ** n for n = 5..2 and at full resolution for n = 1. The
    modules here name a level by its stride: 32, 16, 8, 4.
    """

    mul_scl_ipt: str = 'cat'
    cxt_num: int = 3
    squeeze_block: str = 'BasicDecBlk_x1'
    auxiliary_classification: bool = False
    num_classes: int = 219
    dec_blk: str = 'BasicDecBlk'
    dec_att: str = 'ASPPDeformable'
    dec_channels_inter: str = 'fixed'
    dec_ipt: bool = True
    dec_ipt_split: bool = True
    dec_ipt_levels: tuple[int, ...] = (5, 4, 3, 2, 1)
    ms_supervision: bool = True
    out_ref: bool = True
    out_ref_levels: tuple[int, ...] = (4, 3, 2)
    deform_kernels: tuple[int, ...] = (1, 3, 7)

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The architecture in `config`, any object that has these fields as attributes."""
        values = {field.name: getattr(config, field.name) for field in fields(cls)}
        return cls(**values)

    @property
    def scales(self) -> tuple[float, ...]:
        """Scales of the image at which the backbone sees it."""
        return (1., .5) if self.mul_scl_ipt else (1.,)

    @property
    def squeeze(self) -> tuple[str, int]:
        """Kind and number of the blocks between encoder and decoder; ('', 0) for none."""
        if not self.squeeze_block:
            return '', 0
        kind, count = self.squeeze_block.split('_x')
        return kind, int(count)

    @property
    def inner_channels(self) -> int | None:
        """Width inside the blocks; None for a quarter of their input."""
        return 64 if self.dec_channels_inter == 'fixed' else None

    @property
    def reference_strides(self) -> tuple[int, ...]:
        """Strides at which the image joins the decoder; 1 is the full resolution."""
        if not self.dec_ipt:
            return ()
        strides = []
        for level in self.dec_ipt_levels:
            stride = 1 if level == 1 else 2 ** level
            strides.append(stride)
        return tuple(strides)

    @property
    def outward_strides(self) -> tuple[int, ...]:
        """Strides of the levels with outward reference, whose labels need side outputs."""
        if not (self.out_ref and self.ms_supervision):
            return ()
        return tuple(2 ** (level + 1) for level in self.out_ref_levels)
