/* The header as a C compiler sees it, and a call as a C program writes it. Returns 0, or the number
 * of the line that went wrong. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "prescore/c_api.h"

int prescore_test_from_c(void);

#define CHECK(ok)               \
  do {                          \
    if (!(ok)) return __LINE__; \
  } while (0)

int prescore_test_from_c(void) {
  /* Two keys with logits log 3 and 0: weights 3/4 and 1/4. */
  const float q[1] = {1.0f}, k[2] = {1.0986123f, 0.0f}, v[2] = {8.0f, 4.0f};
  float o[1] = {0.0f}, lse[1] = {0.0f};
  const prescore_tensor tq = prescore_contiguous(q, PRESCORE_F32, 1, 1, 1, 1);
  const prescore_tensor tk = prescore_contiguous(k, PRESCORE_F32, 1, 1, 2, 1);
  const prescore_tensor tv = prescore_contiguous(v, PRESCORE_F32, 1, 1, 2, 1);
  const prescore_output out = prescore_contiguous_output(o, PRESCORE_F32, 1, 1, 1, 1, lse);
  prescore_options options = prescore_options_default();
  prescore_report report;
  prescore_index* index = NULL;
  prescore_report_init(&report, sizeof report);

  CHECK(options.struct_size == sizeof options);
  CHECK(options.budget > 0 && options.causal == 1);
  options.threads = 1;
  CHECK(prescore_attention(&tq, &tk, &tv, &out, &options, &report) == PRESCORE_OK);
  CHECK(fabsf(o[0] - 7.0f) < 1e-5f);
  CHECK(fabsf(lse[0] - 1.3862944f) < 1e-5f);
  CHECK(report.method == PRESCORE_METHOD_DENSE && report.keys == 2 && report.queries == 1);
  CHECK(strlen(report.isa) > 0 && strlen(report.reason) > 0);

  CHECK(prescore_attention(NULL, &tk, &tv, &out, &options, NULL) == PRESCORE_INVALID_ARGUMENT);
  CHECK(strlen(prescore_last_error()) > 0);

  CHECK(prescore_index_create(NULL, &index) == PRESCORE_OK);
  CHECK(prescore_index_size(index) == 0);
  CHECK(prescore_index_extend(index, &tk, &tv, 1) == PRESCORE_OK);
  CHECK(prescore_attention_indexed(&tq, &tk, &tv, NULL, index, &out, NULL, NULL) == PRESCORE_OK);
  prescore_index_free(index);
  prescore_index_free(NULL);
  CHECK(strlen(prescore_version()) > 0);
  return 0;
}
