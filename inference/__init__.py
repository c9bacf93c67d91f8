"""From files to masks and cut-outs: decoding, the pipeline around the network, edges and video."""

from inference.api import predict

__all__ = ['predict']
