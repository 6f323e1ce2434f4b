/*
 * pipeline: many calls in flight from one thread, without a loop of one's own. Submit some, then for each reply that is
 * over submit the next; what is submitted between two polls leaves in one write.
 *
 *     pipeline tw://127.0.0.1:7411 echo x 100000 64      100,000 calls with a float32 [1, 16], 64 in flight
 */
#include <stdio.h>
#include <stdlib.h>

#include "twire.h"

/* One call in flight: its input and its reply, used again and again. */
typedef struct flight {
  float values[16];
  twire_tensor input;
  twire_reply *reply;
} flight;

static void die(const char *what, const char *why) {
  fprintf(stderr, "pipeline: %s: %s\n", what, why);
  exit(1);
}

int main(int argc, char **argv) {
  if (argc != 6) die("usage", "pipeline URL MODEL INPUT CALLS IN_FLIGHT");
  long calls = atol(argv[4]), count = atol(argv[5]), submitted = 0, done = 0, failed = 0;
  if (calls < 1 || count < 1 || count > 10000) die("usage", "CALLS is 1 or more, IN_FLIGHT 1 to 10,000");
  twire_client *client;
  twire_call *call;
  flight *flights = calloc((size_t)count, sizeof *flights);
  if (!flights) die("flights", "out of memory");
  if (twire_connect(argv[1], NULL, &client)) die(argv[1], twire_connect_error());
  twire_tensor shape = twire_dense(argv[3], TWIRE_FLOAT32, NULL, 2, (int64_t[]){1, 16});
  if (twire_call_new(argv[2], NULL, &shape, 1, &call)) die(argv[2], twire_connect_error());

  uint64_t begin = twire_now();
  for (; submitted < calls && submitted < count; submitted++) {
    flight *one = &flights[submitted];
    for (int i = 0; i < 16; i++) one->values[i] = (float)(submitted + i);
    one->input = shape;
    one->input.data = one->values;
    one->reply = twire_reply_new();
    if (!one->reply) die("reply", "out of memory");
    twire_reply_set_user(one->reply, one);
    if (twire_submit(client, call, &one->input, NULL, one->reply)) die("submit", twire_reply_text(one->reply));
  }
  twire_reply *reply;
  while (done < submitted && twire_poll(client, UINT64_MAX, &reply) == TWIRE_OK) {
    flight *one = twire_reply_user(reply);
    if (twire_reply_status(reply) && failed++ == 0) fprintf(stderr, "pipeline: %s\n", twire_reply_text(reply));
    done++; /* twire_reply_tensors(reply) is good until the next line submits it again */
    if (submitted < calls && twire_submit(client, call, &one->input, NULL, reply) == TWIRE_OK) submitted++;
  }
  double seconds = (double)(twire_now() - begin) / 1e9;
  printf("%ld calls, %ld failed, in %.3f s: %.0f calls/s\n", done, failed, seconds, (double)done / seconds);

  twire_close(client);
  for (long i = 0; i < count; i++) twire_reply_free(flights[i].reply);
  twire_call_free(call);
  free(flights);
  return failed || done < calls ? 1 : 0;
}
