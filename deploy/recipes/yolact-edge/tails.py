"""The float end of an int8 graph: box decoding, and softmax if asked, behind its quantised part."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from graphs import VARIANCE_CENTRE, VARIANCE_SIZE, Cut
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

OUTPUTS = ("boxes", "scores", "masks", "proto")


def with_tail(quantised: bytes, cut: Cut) -> bytes:
    """The quantised part, whose outputs are loc, conf, mask and proto, and its tail as one."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(quantised))
    (signature,) = model.signatureDefs
    named = {each.name.decode(): each for each in signature.outputs}
    loc, conf, mask, proto = (named[f"output_{place}"].tensorIndex for place in range(4))
    ends = append(model, tail(cut), {"loc": loc, "conf": conf})
    indices = ends["boxes"], ends.get("scores", conf), mask, proto
    model.subgraphs[0].outputs = list(indices)
    for place, (name, index) in enumerate(zip(OUTPUTS, indices, strict=True)):
        each = named[f"output_{place}"]
        each.name, each.tensorIndex = name.encode(), index
        model.subgraphs[0].tensors[index].name = name.encode()
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        if index not in (*indices, *model.subgraphs[0].inputs):
            tensor.name = b""  # long paths of TensorFlow's, which a small file feels
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def tail(cut: Cut) -> bytes:
    """loc (1,N,4) to boxes xyxy; conf (1,N,1+C) to probabilities, unless that is what it is."""
    centre, size = cut.priors[np.newaxis, :, :2], cut.priors[np.newaxis, :, 2:]
    if np.allclose(size[..., 0], size[..., 1], atol=1e-5):
        size = size.mean(axis=-1, keepdims=True)
    classes = cut.model.graph.output[1].type.tensor_type.shape.dim[2].dim_value
    inputs = [tf.TensorSpec([1, len(cut.priors), 4], name="loc")]
    if cut.logits:
        inputs.append(tf.TensorSpec([1, len(cut.priors), classes], name="conf"))

    @tf.function(input_signature=inputs)
    def decode(loc: tf.Tensor, conf: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        middle = loc[..., :2] * VARIANCE_CENTRE * size + centre
        half = tf.exp(loc[..., 2:] * VARIANCE_SIZE) / 2 * size
        boxes = tf.concat([middle - half, middle + half], axis=-1)
        return {"boxes": boxes} | ({} if conf is None else {"scores": tf.nn.softmax(conf)})

    module = tf.Module()
    module.decode = decode
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [decode.get_concrete_function()], module
    )
    return bytes(converter.convert())


def append(model: schema.ModelT, part: bytes, feeds: dict[str, int]) -> dict[str, int]:
    """Put the operators of `part` behind the model's; `feeds` are what its inputs are there.

    Returns which tensors of the model its outputs have become.
    """
    other = flatbuffer_utils.read_model_from_bytearray(bytearray(part))
    (graph,), (theirs,), (signature,) = model.subgraphs, other.subgraphs, other.signatureDefs
    places = {each.tensorIndex: feeds[each.name.decode()] for each in signature.inputs}
    for index, tensor in enumerate(theirs.tensors):
        if index not in places:
            places[index] = len(graph.tensors)
            tensor.buffer += len(model.buffers)
            graph.tensors.append(tensor)
    for operator in theirs.operators:
        operator.opcodeIndex += len(model.operatorCodes)
        operator.inputs = [places.get(index, -1) for index in operator.inputs]
        operator.outputs = [places[index] for index in operator.outputs]
        graph.operators.append(operator)
    model.operatorCodes += other.operatorCodes
    model.buffers += other.buffers
    return {each.name.decode(): places[each.tensorIndex] for each in signature.outputs}
