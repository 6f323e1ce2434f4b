/*
 * Options and printing of the load programs (load.h).
 *
 * What must not live here: sockets, the schedule (load.c), what a call looks like on the wire (a load_protocol).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

const char load_help[] =
    "  --connections K   connections (default 1)\n"
    "  --in-flight N     calls in flight on each connection (default 1; open loop: the most of them)\n"
    "  --calls M         end after M calls (default 100000, unless --duration is given)\n"
    "  --duration S      end after S seconds\n"
    "  --rate R          open loop: R calls per second in all, whatever the answers do; each is timed from when it was due\n"
    "  --warmup S        seconds before that, which are not recorded (default 0)\n"
    "  --pin CORE        run on this core alone\n"
    "  --spin            never sleep: poll the sockets\n"
    "  --threads 1       one thread is all there is; start more programs for more\n"
    "  --json            one line of JSON instead of a table\n";

_Noreturn void load_fatal(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fflush(stdout);
  fprintf(stderr, "%s: ", program_invocation_short_name);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(status);
}

uint64_t load_number(const char *what, const char *text, uint64_t least, uint64_t most) {
  char *rest;
  errno = 0;
  unsigned long long value = strtoull(text, &rest, 10);
  if (text[0] < '0' || text[0] > '9' || *rest || errno || value < least || value > most)
    load_fatal(LOAD_USAGE, "%s is %s, expected a whole number from %llu to %llu", what, text, (unsigned long long)least,
               (unsigned long long)most);
  return value;
}

/* A number of at least 0, finite. */
static double number(const char *what, const char *text, const char *expected) {
  char *rest;
  double value = strtod(text, &rest);
  if (rest == text || *rest || !(value >= 0 && value <= 1e9)) load_fatal(LOAD_USAGE, "%s is %s, expected %s", what, text, expected);
  return value;
}

double load_seconds(const char *what, const char *text) {
  return number(what, text, "seconds, such as 0.5");
}

load_test *load_new(const load_protocol *protocol) {
  load_test *load = calloc(1, sizeof *load);
  if (!load) load_fatal(LOAD_FAILED, "out of memory");
  load->protocol = protocol;
  load->connection_count = load->in_flight = 1;
  load->calls = UINT64_MAX;
  load->pin = -1;
  return load;
}

void load_free(load_test *load) {
  free(load);
}

void load_option(load_test *load, int code, const char *value) {
  switch (code) {
    case 'c': load->connection_count = (uint32_t)load_number("--connections", value, 1, 65536); break;
    case 'n': load->in_flight = (uint32_t)load_number("--in-flight", value, 1, 1u << 20); break;
    case 'm': load->calls = load_number("--calls", value, 1, UINT64_MAX - 1); break;
    case 'd': load->duration = (uint64_t)(load_seconds("--duration", value) * 1e9); break;
    case 'r':
      load->rate = number("--rate", value, "calls per second, more than 0");
      if (load->rate == 0) load_fatal(LOAD_USAGE, "--rate is 0, expected more than 0 calls per second");
      break;
    case 'w': load->warmup = (uint64_t)(load_seconds("--warmup", value) * 1e9); break;
    case 'p': load->pin = (int)load_number("--pin", value, 0, 1023); break;
    case 't': load_number("--threads", value, 1, 1); break;
    case 's': load->spin = true; break;
    case 'j': load->json = true; break;
    default: exit(LOAD_USAGE); /* getopt_long has said what is wrong */
  }
}

void load_options_done(load_test *load, int argc, char **argv) {
  if (optind < argc) load_fatal(LOAD_USAGE, "%s is one word too many; --help lists the options", argv[optind]);
  if (load->calls != UINT64_MAX && load->duration) load_fatal(LOAD_USAGE, "--calls and --duration: give one of the two");
  if (load->calls == UINT64_MAX && !load->duration) load->calls = 100000;
  if ((uint64_t)load->connection_count * load->in_flight > 1u << 24)
    load_fatal(LOAD_USAGE, "--connections times --in-flight is above 16,777,216 calls in flight");
}

void load_progress(load_test *load, uint64_t now) {
  if (now < load->next_progress) return;
  bool first = load->next_progress == 0;
  load->next_progress = isatty(STDERR_FILENO) && !load->json ? now + 500000000 : UINT64_MAX;
  if (first || load->next_progress == UINT64_MAX || !load->recording) return;
  double elapsed = (double)(now - load->record_begin) / 1e9;
  double part = load->duration ? elapsed * 1e9 / (double)load->duration : (double)load->started / (double)load->calls;
  fprintf(stderr, "\r%3.0f%%  %.1f s  %llu calls  %llu errors ", part < 1 ? part * 100 : 100.0, elapsed,
          (unsigned long long)load->latencies.count, (unsigned long long)load->error_count);
}

static double us(uint64_t nanoseconds) {
  return (double)nanoseconds / 1e3;
}

static void report_json(const load_test *load, double rate) {
  const load_histogram *latencies = &load->latencies;
  printf("{\"calls\": %llu, \"errors\": %llu, \"errors_by_status\": {", (unsigned long long)latencies->count,
         (unsigned long long)load->error_count);
  for (size_t i = 0; i < MOST_ERRORS && load->errors[i].name; i++)
    printf("%s\"%s\": %llu", i ? ", " : "", load->errors[i].name, (unsigned long long)load->errors[i].count);
  printf("}, \"seconds\": %.6f, \"rate\": %.1f, ", load->seconds, rate);
  printf("\"p50_us\": %.3f, \"p90_us\": %.3f, \"p99_us\": %.3f, \"p99_9_us\": %.3f, \"max_us\": %.3f, ",
         us(histogram_percentile(latencies, 50)), us(histogram_percentile(latencies, 90)),
         us(histogram_percentile(latencies, 99)), us(histogram_percentile(latencies, 99.9)), us(latencies->max));
  printf("\"max_lateness_us\": %.3f, \"bytes_in\": %llu, \"bytes_out\": %llu, \"cpu_seconds\": %.6f, ", us(load->lateness),
         (unsigned long long)load->bytes_in, (unsigned long long)load->bytes_out, load->cpu_seconds);
  printf("\"checked\": %llu, \"connections\": %u, \"connections_lost\": %llu, \"in_flight\": %u}\n",
         (unsigned long long)load->checked, load->connection_count, (unsigned long long)load->lost, load->in_flight);
}

static void report_table(const load_test *load, double rate) {
  const load_histogram *latencies = &load->latencies;
  printf("%s, %u connection%s x %u in flight, ", load->target, load->connection_count, load->connection_count == 1 ? "" : "s",
         load->in_flight);
  if (load->rate > 0) printf("open loop at %.0f calls/s\n", load->rate);
  else printf("closed loop\n");
  printf("calls      %llu in %.3f s: %.0f calls/s\n", (unsigned long long)latencies->count, load->seconds, rate);
  printf("latency    p50 %.1f us   p90 %.1f us   p99 %.1f us   p99.9 %.1f us   max %.1f us\n",
         us(histogram_percentile(latencies, 50)), us(histogram_percentile(latencies, 90)),
         us(histogram_percentile(latencies, 99)), us(histogram_percentile(latencies, 99.9)), us(latencies->max));
  printf("bytes      %.1f MB in, %.1f MB out\n", (double)load->bytes_in / 1e6, (double)load->bytes_out / 1e6);
  printf("cpu        %.3f s of this program\n", load->cpu_seconds);
  if (load->checked) printf("checked    %llu replies, byte by byte\n", (unsigned long long)load->checked);
  if (load->rate > 0) printf("lateness   %.1f us at most; a large one: this program, or --in-flight, was the limit\n", us(load->lateness));
  for (size_t i = 0; i < MOST_ERRORS && load->errors[i].name; i++)
    printf("failed     %llu %s\n", (unsigned long long)load->errors[i].count, load->errors[i].name);
  if (load->lost) printf("lost       %llu connections\n", (unsigned long long)load->lost);
}

void load_report(const load_test *load) {
  double rate = load->seconds > 0 ? (double)load->latencies.count / load->seconds : 0;
  if (load->next_progress && load->next_progress != UINT64_MAX) fputc('\n', stderr);
  if (load->json) report_json(load, rate);
  else report_table(load, rate);
}
