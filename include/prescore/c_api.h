/* prescore from C, or from any language that calls C. Needs nothing but this header and the
 * library.
 *
 * Every function that can fail returns a prescore_status; prescore_last_error() then has one
 * sentence
 * "[stage] what, got X, want Y" for the calling thread. Nothing throws and nothing aborts.
 *
 * Structs that may grow begin with struct_size. Fill them with their _init function (or take the
 * value of the _default function) and change what you need; a program compiled against an older
 * header keeps working with a newer library. */
#ifndef PRESCORE_C_API_H
#define PRESCORE_C_API_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define PRESCORE_API
#else
#define PRESCORE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum prescore_status {
  PRESCORE_OK = 0,
  PRESCORE_INVALID_ARGUMENT = 1, /* the caller's mistake; nothing was written */
  PRESCORE_OUT_OF_MEMORY = 2,
  PRESCORE_INTERNAL_ERROR = 3
} prescore_status;

/* Element types. lse is always f32. */
enum { PRESCORE_F32 = 0, PRESCORE_F16 = 1, PRESCORE_BF16 = 2 };

/* prescore_options.method */
enum {
  PRESCORE_METHOD_AUTO = 0,   /* dense below a measured crossover, routed above */
  PRESCORE_METHOD_DENSE = 1,  /* every visible key */
  PRESCORE_METHOD_WINDOW = 2, /* first and most recent keys */
  PRESCORE_METHOD_TOPK = 3,   /* and the keys with the best query-independent score */
  PRESCORE_METHOD_ROUTED = 4, /* and the clusters with the most estimated attention mass */
  PRESCORE_METHOD_HYPER = 5,  /* HyperAttention: exact leaves, LSH blocks, weighted samples */
  PRESCORE_METHOD_PRESCORED_HYPER = 6 /* the same over the keys with the best scores */
};
/* prescore_options.routing */
enum { PRESCORE_ROUTING_TILE = 0, PRESCORE_ROUTING_STRICT = 1 };
/* prescore_options.standins */
enum { PRESCORE_STANDINS_NONE = 0, PRESCORE_STANDINS_AUTO = 1, PRESCORE_STANDINS_NODES = 2 };
/* prescore_options.score */
enum {
  PRESCORE_SCORE_KEY_NORM = 0,
  PRESCORE_SCORE_LEVERAGE = 1,
  PRESCORE_SCORE_KMEANS = 2,
  PRESCORE_SCORE_KEY_DIFFERENCE = 3,
  PRESCORE_SCORE_RANDOM = 4,
  PRESCORE_SCORE_KMEDIAN = 5,
  PRESCORE_SCORE_KERNEL_KMEANS = 6,
  PRESCORE_SCORE_GAUSSIAN_NORM = 7,
  PRESCORE_SCORE_UNIVERSAL = 8, /* LevAttention's universal set */
  PRESCORE_SCORE_EXPECTED = 9,  /* 9 to 12 need queries or values: prescore_attention only */
  PRESCORE_SCORE_RECEIVED = 10,
  PRESCORE_SCORE_VALUE_NORM = 11,
  PRESCORE_SCORE_ORACLE = 12 /* knows later queries: a ceiling */
};
/* prescore_options.selection */
enum {
  PRESCORE_SELECTION_TOP = 0,
  PRESCORE_SELECTION_THRESHOLD = 1, /* those with at least least_score */
  PRESCORE_SELECTION_SHARE = 2,     /* the best until they hold `share` of the sum of all scores */
  PRESCORE_SELECTION_SAMPLE = 3     /* drawn without replacement in proportion to the score */
};
/* prescore_score_options.cluster_score, .leverage and .kernel */
enum {
  PRESCORE_CLUSTER_DISTANCE = 0,
  PRESCORE_CLUSTER_RELATIVE = 1,
  PRESCORE_CLUSTER_NEARNESS = 2
};
enum { PRESCORE_LEVERAGE_RIDGE = 0, PRESCORE_LEVERAGE_EXACT = 1, PRESCORE_LEVERAGE_SKETCHED = 2 };
enum { PRESCORE_KERNEL_FEATURES = 0, PRESCORE_KERNEL_DISTANCE = 1 };
/* prescore_options.compute */
enum { PRESCORE_COMPUTE_AUTO = 0, PRESCORE_COMPUTE_F32 = 1, PRESCORE_COMPUTE_BF16 = 2 };

/* A tensor [b, h, n, d], strides in elements. The last axis is contiguous, no stride is negative.
 */
typedef struct prescore_tensor {
  const void* data;
  int32_t dtype;
  int64_t shape[4];
  int64_t stride[4];
} prescore_tensor;

/* Where a result goes: o [b, h_q, n_q, d_v] and, unless null, lse [b, h_q, n_q] dense, f32, natural
 * logarithm. Over no keys o = 0 and lse = -inf. */
typedef struct prescore_output {
  void* data;
  int32_t dtype;
  int64_t shape[4];
  int64_t stride[4];
  float* lse;
} prescore_output;

/* Shape of the index over each segment of keys. */
typedef struct prescore_index_options {
  size_t struct_size;
  int64_t segment;    /* keys of a segment; a full segment never changes */
  int64_t cluster;    /* keys of a cluster on average */
  int64_t group;      /* keys of a group of clusters on average */
  int64_t iterations; /* Lloyd iterations */
  int64_t sinks;      /* first keys, in no cluster; at least prescore_options.sinks */
  int32_t packed;     /* 1: keep a copy of keys and values ordered by cluster */
} prescore_index_options;

/* How keys are scored; what each member means and where it counts: ScoreOptions in
 * prescore/score.h. The score itself and the seed stand in prescore_options. */
typedef struct prescore_score_options {
  size_t struct_size;
  int32_t centred;
  int32_t cluster_score;
  int32_t leverage;
  int32_t kernel;
  int32_t value_weighted;
  int32_t rotation_interleaved;
  int64_t clusters;    /* 0: d + 1 */
  int64_t iterations;  /* Lloyd iterations */
  int64_t features;    /* 0: 2 d, at most 512 */
  int64_t sketch_rows; /* 0: 8 d */
  int64_t degree;
  int64_t fit;     /* prescore_score_keys: keys that the score is fitted to; 0: all */
  int64_t segment; /* causal: far keys end at multiples of it */
  int64_t query_stride;
  int64_t distance;
  int64_t rotation_dims; /* rotated elements of a key; 0: scored as they are */
  double sigma;          /* 0: from the keys */
  double ridge;
  double growth; /* 0: by score */
  double rotation_base;
  double rotation_position_scale;
} prescore_score_options;

/* HyperAttention: HyperOptions in prescore/types.h. All counts are keys but `projections`. With
 * leaf 0 (the default) no query reads more than the budget, and block : samples is a proportion. */
typedef struct prescore_hyper_options {
  size_t struct_size;
  int32_t centred;
  int64_t projections; /* bits of a hash code, 1 to 16 */
  int64_t block;
  int64_t samples;
  int64_t leaf;     /* a multiple of the tile, or 0: from the budget */
  int64_t selected; /* prescored: keys that survive */
} prescore_hyper_options;

/* Work on a GPU: CudaOptions in prescore/attention.h. Tensors and lse are device memory. */
typedef struct prescore_cuda_options {
  size_t struct_size;
  void* stream;            /* cudaStream_t */
  void* workspace;         /* null: allocated in stream order */
  int64_t workspace_bytes; /* at least prescore_workspace_bytes */
  /* Packed sequences: device pointers to sequences + 1 offsets each; null: a regular batch. */
  const int32_t* cu_seqlens_q;
  const int32_t* cu_seqlens_k;
  int64_t sequences;
  int32_t count; /* 1: wait for the result and fill the report */
  /* Top-k: device pointer to scores of the keys, [b, h_kv, n_kv] f32; null: by options.score, of
   * those that a GPU has (score.h). */
  const float* scores;
} prescore_cuda_options;

/* What one query head reads: HeadBudget in prescore/types.h. */
typedef struct prescore_head_budget {
  int32_t method; /* PRESCORE_METHOD_DENSE, _WINDOW, _TOPK, _ROUTED, or _AUTO: that of the call */
  int64_t keys;   /* most keys a query reads; 0: the budget of the call */
} prescore_head_budget;

/* How keys are chosen, and what runs. All counts are keys. */
typedef struct prescore_options {
  size_t struct_size;
  int32_t method;
  int32_t routing;
  int32_t standins;
  int32_t score;
  int32_t compute;
  int32_t causal;      /* 1: query i sees keys [0, n_kv - n_q + i] */
  int32_t threads;     /* 0: all */
  float scale;         /* factor on q.k; 0: 1 / sqrt(d) */
  float standin_share; /* share of the attention from which a node stands in (STANDINS_AUTO) */
  int64_t budget;      /* most keys one query reads: sinks, window and far keys together */
  int64_t sinks;
  int64_t window;
  int64_t tile; /* queries that choose together, a multiple of 16 */
  int64_t open_groups;
  int64_t open_segments;
  int64_t route_stride;
  uint64_t seed;
  /* Of the index that the call makes where the caller gives none; null: the defaults. */
  const prescore_index_options* index;
  int64_t dense_until; /* tiles that see at most so many keys read them all; 0: the budget */
  int32_t selection;
  int32_t sample_weights; /* SELECTION_SAMPLE: 1: a drawn key stands for 1 / (its chance) keys */
  float least_score;      /* SELECTION_THRESHOLD */
  float share;            /* SELECTION_SHARE, 0 to 1 */
  float adaptive;         /* top-k: part of the far keys for which the key heads compete, 0 to 1 */
  /* Null: the defaults. */
  const prescore_score_options* scoring;
  const prescore_hyper_options* hyper;
  const prescore_cuda_options* cuda; /* null: on the CPU */
  int32_t heads_together; /* routed: the query heads of a key head read the same keys; 0, 1 */
  /* Budgets by head: null, or head_count entries, one a query head of the call. */
  const prescore_head_budget* heads;
  int64_t head_count;
  /* Certificate: CertifyOptions in prescore/certificate.h. */
  int64_t certify_samples; /* sampled tiles of each batch entry; 0: none */
  float min_recall;        /* heads of whose attention less was read are computed again densely */
  uint64_t certify_seed;
} prescore_options;

/* Of one query head: HeadCertificate in prescore/certificate.h. */
typedef struct prescore_head_certificate {
  int64_t queries;     /* sampled ones */
  double mass;         /* mean share of the attention that was read */
  double mass_error;   /* its standard error */
  double output_error; /* largest relative error of an output of the sample */
  int32_t redone;      /* 1: computed again densely */
} prescore_head_certificate;

/* What happened in a call. Before it: prescore_report_init, or zeros and struct_size; `heads` and
 * `head_count` are read. */
typedef struct prescore_report {
  size_t struct_size;
  int32_t method;                            /* the one taken: what auto chose */
  int64_t queries;                           /* (batch, head, query) triples */
  int64_t visible;                           /* keys that dense attention reads */
  int64_t keys;                              /* keys read */
  int64_t standins;                          /* stand-ins read */
  int64_t products;                          /* routing products */
  double index_s, plan_s, attend_s, total_s; /* seconds; plan and attend summed over workers */
  char isa[32];                              /* kernel used */
  char reason[256];                          /* why auto chose it, or what dense_until made exact */
  /* The caller's array of head_count entries for the certificate, or null. */
  prescore_head_certificate* heads;
  int64_t head_count;
  double certify_s; /* seconds of the certificate, summed over workers */
} prescore_report;

typedef struct prescore_index prescore_index; /* opaque */

/* "0.1.0" */
PRESCORE_API const char* prescore_version(void);
/* The sentence of the last failure on this thread; "" where there was none. Never null. */
PRESCORE_API const char* prescore_last_error(void);
PRESCORE_API const char* prescore_status_name(prescore_status status);
/* The kernel that serves `compute` with keys of `dtype` here; null on an unknown value. */
PRESCORE_API const char* prescore_isa_name(int32_t compute, int32_t dtype);

/* A dense tensor. */
PRESCORE_API prescore_tensor prescore_contiguous(const void* data, int32_t dtype, int64_t b,
                                                 int64_t h, int64_t n, int64_t d);
PRESCORE_API prescore_output prescore_contiguous_output(void* data, int32_t dtype, int64_t b,
                                                        int64_t h, int64_t n, int64_t d,
                                                        float* lse);

/* Defaults; `struct_size` is sizeof the struct in the caller's header. */
PRESCORE_API void prescore_options_init(prescore_options* options, size_t struct_size);
PRESCORE_API void prescore_index_options_init(prescore_index_options* options, size_t struct_size);
PRESCORE_API void prescore_score_options_init(prescore_score_options* options, size_t struct_size);
PRESCORE_API void prescore_hyper_options_init(prescore_hyper_options* options, size_t struct_size);
PRESCORE_API void prescore_cuda_options_init(prescore_cuda_options* options, size_t struct_size);
PRESCORE_API void prescore_report_init(prescore_report* report, size_t struct_size);

/* softmax(scale q k^T) v over the keys that `options` chooses. `options` null: the defaults;
 * `report` may be null. */
PRESCORE_API prescore_status prescore_attention(const prescore_tensor* q, const prescore_tensor* k,
                                                const prescore_tensor* v,
                                                const prescore_output* out,
                                                const prescore_options* options,
                                                prescore_report* report);

/* The same with an index that lives from call to call and is extended where the method needs it,
 * and with the position of each query (n_q of them, non-decreasing; query i sees keys [0,
 * position[i]]). Either may be null. Not from two threads with the same index. */
PRESCORE_API prescore_status prescore_attention_indexed(
    const prescore_tensor* q, const prescore_tensor* k, const prescore_tensor* v,
    const int32_t* positions, prescore_index* index, const prescore_output* out,
    const prescore_options* options, prescore_report* report);

/* into <- into (+) other, over disjoint sets of keys; both f32 with lse. */
PRESCORE_API prescore_status prescore_merge(const prescore_output* into,
                                            const prescore_output* other);

/* The same on the GPU, in the order of `stream` (a cudaStream_t); both f32, f16 or bf16, alike. */
PRESCORE_API prescore_status prescore_merge_cuda(const prescore_output* into,
                                                 const prescore_output* other, void* stream);

/* Scores (options->score) of the first n keys of every head: out [b, h_kv, n]. */
PRESCORE_API prescore_status prescore_score_keys(const prescore_tensor* k, int64_t n,
                                                 const prescore_options* options, float* out);

/* The same on the GPU, in the order of `stream` (a cudaStream_t): k f16 or bf16, of the scores
 * norm, random, leverage and k-means, see score.h. */
PRESCORE_API prescore_status prescore_score_keys_cuda(const prescore_tensor* k, int64_t n,
                                                      const prescore_options* options, float* out,
                                                      void* stream);

/* Upper bound of the memory that prescore_attention holds beyond inputs and outputs. */
PRESCORE_API prescore_status prescore_workspace_bytes(const prescore_tensor* q,
                                                      const prescore_tensor* k,
                                                      const prescore_tensor* v,
                                                      const prescore_options* options,
                                                      int64_t* bytes);

/* An empty index. `options` null: the defaults. */
PRESCORE_API prescore_status prescore_index_create(const prescore_index_options* options,
                                                   prescore_index** index);
/* Brings the index up to date with a cache that has grown; k and v are the whole cache. */
PRESCORE_API prescore_status prescore_index_extend(prescore_index* index, const prescore_tensor* k,
                                                   const prescore_tensor* v, int32_t threads);
/* Forgets everything from key n on, rounded down to whole segments. */
PRESCORE_API prescore_status prescore_index_truncate(prescore_index* index, int64_t n);
/* Truncates at the first segment whose keys were rewritten. `kept` may be null. */
PRESCORE_API prescore_status prescore_index_validate(prescore_index* index,
                                                     const prescore_tensor* k, int64_t* kept);
/* Keys covered, and bytes held; 0 of a null index. */
PRESCORE_API int64_t prescore_index_size(const prescore_index* index);
PRESCORE_API int64_t prescore_index_bytes(const prescore_index* index);
/* Null does nothing. */
PRESCORE_API void prescore_index_free(prescore_index* index);

static inline prescore_options prescore_options_default(void) {
  prescore_options options;
  prescore_options_init(&options, sizeof options);
  return options;
}
static inline prescore_index_options prescore_index_options_default(void) {
  prescore_index_options options;
  prescore_index_options_init(&options, sizeof options);
  return options;
}
static inline prescore_score_options prescore_score_options_default(void) {
  prescore_score_options options;
  prescore_score_options_init(&options, sizeof options);
  return options;
}
static inline prescore_hyper_options prescore_hyper_options_default(void) {
  prescore_hyper_options options;
  prescore_hyper_options_init(&options, sizeof options);
  return options;
}
static inline prescore_cuda_options prescore_cuda_options_default(void) {
  prescore_cuda_options options;
  prescore_cuda_options_init(&options, sizeof options);
  return options;
}

#ifdef __cplusplus
}
#endif

#endif
