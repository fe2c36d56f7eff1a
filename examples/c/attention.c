/* prescore from C: attention over a cache that grows, with an index that lives from call to call.
 *   cc attention.c -lprescore -lstdc++ -lm -o attention     (an installed prescore, with its
 * oneTBB) */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <prescore/c_api.h>

enum { HEADS = 4, KEY_HEADS = 2, KEYS = 4096, CHUNK = 512, DIM = 64 };

static float noise(void) { return (float)rand() / (float)RAND_MAX - 0.5f; }

static int fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, prescore_last_error());
  return 1;
}

int main(void) {
  float* q = malloc(sizeof(float) * HEADS * CHUNK * DIM);
  float* k = malloc(sizeof(float) * KEY_HEADS * KEYS * DIM);
  float* v = malloc(sizeof(float) * KEY_HEADS * KEYS * DIM);
  float* o = malloc(sizeof(float) * HEADS * CHUNK * DIM);
  prescore_index* index = NULL;
  prescore_options options = prescore_options_default();
  int result = 0;

  if (q == NULL || k == NULL || v == NULL || o == NULL) return 1;
  if (prescore_index_create(NULL, &index) != PRESCORE_OK) return fail("index");
  options.method = PRESCORE_METHOD_ROUTED;
  options.budget = 1024;
  for (int i = 0; i < KEY_HEADS * KEYS * DIM; ++i) k[i] = noise(), v[i] = noise();

  printf("prescore %s\n", prescore_version());
  for (int n = CHUNK; n <= KEYS && result == 0; n += CHUNK) {
    /* The last CHUNK positions ask; the cache holds n keys a head, KEYS apart. */
    for (int i = 0; i < HEADS * CHUNK * DIM; ++i) q[i] = noise();
    prescore_tensor tq = prescore_contiguous(q, PRESCORE_F32, 1, HEADS, CHUNK, DIM);
    prescore_tensor tk = prescore_contiguous(k, PRESCORE_F32, 1, KEY_HEADS, KEYS, DIM);
    prescore_tensor tv = prescore_contiguous(v, PRESCORE_F32, 1, KEY_HEADS, KEYS, DIM);
    prescore_output out = prescore_contiguous_output(o, PRESCORE_F32, 1, HEADS, CHUNK, DIM, NULL);
    prescore_report report;
    tk.shape[2] = tv.shape[2] = n;
    prescore_report_init(&report, sizeof report);
    if (prescore_attention_indexed(&tq, &tk, &tv, NULL, index, &out, &options, &report) !=
        PRESCORE_OK) {
      result = fail("attention");
      break;
    }
    printf("%5d keys: %4.0f read a query, %4.0f stand-ins, %.4f s\n", n,
           (double)report.keys / (double)report.queries,
           (double)report.standins / (double)report.queries, report.total_s);
    if (!isfinite(o[0])) result = 1;
  }
  prescore_index_free(index);
  free(q), free(k), free(v), free(o);
  return result;
}
