"""From files to masks and cut-outs: decoding, the pipeline around the network, edges and video."""
