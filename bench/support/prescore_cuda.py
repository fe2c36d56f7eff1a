"""prescore on PyTorch's CUDA tensors through the C ABI: what the GPU benchmarks call."""
import ctypes as C
import os

import torch

METHODS = {"auto": 0, "dense": 1, "window": 2, "topk": 3, "routed": 4, "hyper": 5, "prescored_hyper": 6}
DTYPES = {torch.float16: 1, torch.bfloat16: 2}
i32, i64, f32, f64, ptr = C.c_int32, C.c_int64, C.c_float, C.c_double, C.c_void_p


class Tensor(C.Structure):
    _fields_ = [("data", ptr), ("dtype", i32), ("shape", i64 * 4), ("stride", i64 * 4)]


class Output(C.Structure):
    _fields_ = Tensor._fields_ + [("lse", ptr)]


class IndexOptions(C.Structure):
    _fields_ = [("struct_size", C.c_size_t), ("segment", i64), ("cluster", i64), ("group", i64),
                ("iterations", i64), ("sinks", i64), ("packed", i32)]


class HyperOptions(C.Structure):
    _fields_ = [("struct_size", C.c_size_t), ("centred", i32), ("projections", i64), ("block", i64), ("samples", i64),
                ("leaf", i64), ("selected", i64)]


class CudaOptions(C.Structure):
    _fields_ = [("struct_size", C.c_size_t), ("stream", ptr), ("workspace", ptr), ("workspace_bytes", i64),
                ("cu_q", ptr), ("cu_k", ptr), ("sequences", i64), ("count", i32)]


class HeadBudget(C.Structure):
    _fields_ = [("method", i32), ("keys", i64)]


class Options(C.Structure):
    _fields_ = [("struct_size", C.c_size_t), ("method", i32), ("routing", i32), ("standins", i32), ("score", i32),
                ("compute", i32), ("causal", i32), ("threads", i32), ("scale", f32), ("standin_share", f32),
                ("budget", i64), ("sinks", i64), ("window", i64), ("tile", i64), ("open_groups", i64),
                ("open_segments", i64), ("route_stride", i64), ("seed", C.c_uint64), ("index", ptr),
                ("dense_until", i64), ("selection", i32), ("sample_weights", i32), ("least_score", f32),
                ("share", f32), ("adaptive", f32), ("scoring", ptr), ("hyper", ptr), ("cuda", ptr),
                ("heads_together", i32), ("heads", ptr), ("head_count", i64)]


class Report(C.Structure):
    _fields_ = [("struct_size", C.c_size_t), ("method", i32), ("queries", i64), ("visible", i64), ("keys", i64),
                ("standins", i64), ("products", i64), ("index_s", f64), ("plan_s", f64), ("attend_s", f64),
                ("total_s", f64), ("isa", C.c_char * 32), ("reason", C.c_char * 256)]


_lib = C.CDLL(os.environ.get("PRESCORE_LIBRARY", "build/release/bench/libprescore.so"))
_lib.prescore_last_error.restype = C.c_char_p


def _init(struct, function):
    getattr(_lib, function)(C.byref(struct), C.c_size_t(C.sizeof(struct)))
    return struct


def _fill(struct, t):
    struct.data, struct.dtype = t.data_ptr(), DTYPES[t.dtype]
    struct.shape[:], struct.stride[:] = t.shape, t.stride()
    return struct


def parse(method):
    """NAME[:OPTION=VALUE...] as (name, options of prescore_options and, as `hyper.OPTION`, of its hyper, those of its index: `index.OPTION`)."""
    name, *given = method.split(":")
    options, index = {}, {}
    for option in given:
        key, value = option.split("=")
        value = float(value) if "." in value or "e" in value else int(value)
        (index if key.startswith("index.") else options)[key.removeprefix("index.")] = value
    return name, options, index


def attention(q, k, v, method="routed", causal=True, count=False, index=None, lse=None, out=None, cu=None, heads=None,
              **options):
    """softmax(q k^T / sqrt(d)) v of [b, h, n, d] tensors on the current stream; returns o, or (o, report) if count.
    heads: None, or (method, keys) of each query head, keys 0: the budget."""
    o = out if out is not None else torch.empty_like(q)
    to = _fill(Output(), o)
    to.lse = lse.data_ptr() if lse is not None else None
    cuda = _init(CudaOptions(), "prescore_cuda_options_init")
    cuda.stream, cuda.count = torch.cuda.current_stream().cuda_stream, int(count)
    if cu is not None:
        cuda.cu_q, cuda.cu_k, cuda.sequences = cu[0].data_ptr(), cu[1].data_ptr(), len(cu[0]) - 1
    opt = _init(Options(), "prescore_options_init")
    opt.method, opt.causal, opt.cuda = METHODS[method], int(causal), C.addressof(cuda)
    shape = _init(IndexOptions(), "prescore_index_options_init")
    for name, value in (index or {}).items():
        setattr(shape, name, value)
    opt.index = C.addressof(shape)
    if heads:
        budgets = (HeadBudget * len(heads))(*((METHODS[name], keys) for name, keys in heads))
        opt.heads, opt.head_count = C.addressof(budgets), len(heads)
    hyper = _init(HyperOptions(), "prescore_hyper_options_init")
    opt.hyper = C.addressof(hyper)
    for name, value in options.items():
        setattr(hyper if name.startswith("hyper.") else opt, name.removeprefix("hyper."), value)
    report = _init(Report(), "prescore_report_init")
    tensors = [_fill(Tensor(), t) for t in (q, k, v)]
    if _lib.prescore_attention(*(C.byref(t) for t in tensors), C.byref(to), C.byref(opt), C.byref(report)):
        raise RuntimeError(_lib.prescore_last_error().decode())
    return (o, report) if count else o
