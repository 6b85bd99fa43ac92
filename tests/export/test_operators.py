"""TensorRT has every operator of the ONNX files."""

import pytest

# Operators with a "Y" in "Operator Support Matrix", docs/operators.md of onnx/onnx-tensorrt, for
# TensorRT 10.15 and opsets 9 to 24. Unsigned bytes can be an input only, which Cast reads.
_OF_TENSORRT = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
    BatchNormalization BlackmanWindow Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape
    Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum
    Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization GRU HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
    InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish
    Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad Pow PRelu QuantizeLinear RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    Resize ReverseSequence RMSNormalization RNN RoiAlign RotaryEmbedding Round STFT Scan Scatter
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
    Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose
    Trilu Unsqueeze Upsample Where Xor
"""
_SYSTEMS = ["softmax and NMS", "dual attention", "dynamic", "msca_adp", "mssa", "res5 attention"]
_SYSTEMS += ["masks", "cascade", "cascade of masks", "danet", "danet projected"]
_SYSTEMS = ["sparsercnn", *(pytest.param(x, marks=pytest.mark.slow) for x in _SYSTEMS)]


@pytest.mark.parametrize("system", _SYSTEMS)
def test_tensorrt_has_every_operator(exported, system):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = onnx.load(exported(system, "onnx"))
    onnx.checker.check_model(model)
    assert not model.functions
    assert {x.domain for x in model.graph.node} <= {"", "ai.onnx"}
    assert {x.op_type for x in model.graph.node} <= set(_OF_TENSORRT.split())
    images, sizes = model.graph.input
    assert [x.dim_param for x in images.type.tensor_type.shape.dim if x.dim_param] == [
        "batch", "height", "width",
    ]  # fmt: skip
    assert sizes.type.tensor_type.shape.dim[0].dim_param == "batch"
