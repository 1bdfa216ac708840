"""Small .tflite files, written with the schema that comes with LiteRT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

Quantised = tuple[float, int]  # scale and zero point
_TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int8": "INT8", "uint8": "UINT8"}
_TYPES |= {"int16": "INT16", "int32": "INT32", "int64": "INT64", "bool": "BOOL"}


class TfliteFile:
    """One graph, tensor by tensor and operator by operator; a tensor is known by its number."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.description = 3, "made for tests"
        self.model.subgraphs, self.model.buffers = [self.graph], [_buffer(b"")]
        self.model.operatorCodes, self.graph.tensors, self.graph.operators = [], [], []
        self.graph.name = "main"

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "float32",
        quantised: Quantised | None = None,
        data: np.ndarray | None = None,
    ) -> int:
        """A size of -1 is open: the file then says 1 and, as its signature, -1."""
        made = schema.TensorT()
        made.name, made.shape = name, [abs(size) for size in shape]
        if min(shape, default=0) < 0:
            made.shapeSignature = list(shape)
        made.type = getattr(schema.TensorType, _TYPES[dtype])
        if quantised is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = [quantised[0]]
            made.quantization.zeroPoint = [quantised[1]]
        if data is not None:
            made.buffer = len(self.model.buffers)
            self.model.buffers.append(_buffer(np.ascontiguousarray(data, dtype).tobytes()))
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def constant(self, name: str, data: np.ndarray, quantised: Quantised | None = None) -> int:
        return self.tensor(name, data.shape, data.dtype.name, quantised, data)

    def operator(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: str = "",
        version: int = 1,
        **fields: Any,
    ) -> None:
        """A builtin operator by its name in the schema, or a custom one by any other name."""
        code = schema.OperatorCodeT()
        builtin = getattr(schema.BuiltinOperator, kind, None)
        code.builtinCode = schema.BuiltinOperator.CUSTOM if builtin is None else builtin
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
        code.customCode = kind if builtin is None else None
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = (
            len(self.model.operatorCodes), list(inputs), list(outputs)
        )  # fmt: skip
        if options:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            made.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in fields.items():
                assert hasattr(made.builtinOptions, name), name
                setattr(made.builtinOptions, name, value)
        self.model.operatorCodes.append(code)
        self.graph.operators.append(made)

    def written(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _buffer(data: bytes) -> schema.BufferT:
    made = schema.BufferT()
    made.data = np.frombuffer(data, np.uint8) if data else None
    return made
