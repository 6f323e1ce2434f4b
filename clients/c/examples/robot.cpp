// robot: a control loop that asks a policy for the next action at a fixed rate, and moves on when there is none.
//
//     robot tw://127.0.0.1:7411 policy x 500 20      500 steps, one every 20 ms, with a float32 [1, 16]
//
// Each step waits no longer than its period. An answer that is late, refused or lost means: hold the last action. A connection
// that is gone is made anew, with growing pauses, while the robot goes on.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>
#include <thread>

#include "twire.hpp"

using namespace std::chrono_literals;
using clock_type = std::chrono::steady_clock;

// The policy over a connection that comes and goes.
class policy {
 public:
  policy(std::string url, const std::string &model, const char *input)
      : url_(std::move(url)), input_(input, observation_.data(), {1, 16}), call_(model, {input_}) {}

  // The next action, or nothing (and why) if there is none before the deadline.
  std::optional<float> act(float position, clock_type::time_point deadline) {
    if (!connect(deadline)) return std::nullopt;
    observation_.fill(position);
    try {
      twire::call_options options;
      options.timeout = std::max<std::chrono::nanoseconds>(deadline - clock_type::now(), 1us);
      client_->infer(call_, {input_}, reply_, options);
      return reply_[0].as<float>()[0];
    } catch (const twire::error &error) {
      why = error.what();
    }
    return std::nullopt;
  }

  // Whether there is a connection, made by then if need be. Called before the robot moves, it may take its time.
  bool connect(clock_type::time_point deadline) {
    if (client_ && client_->alive()) return true;
    client_.reset();
    if (clock_type::now() < next_try_) return false;
    try {
      twire_options options{};
      options.agent = "robot/1";
      options.connect_timeout = static_cast<std::uint64_t>(std::max<std::chrono::nanoseconds>(deadline - clock_type::now(), 1us).count());
      client_.emplace(url_, options);
      connections++;
      pause_ = 10ms;
      return true;
    } catch (const twire::error &error) {
      why = error.what();
    }
    next_try_ = clock_type::now() + pause_;
    pause_ = std::min<std::chrono::milliseconds>(pause_ * 2, 1s);
    return false;
  }

  int connections = 0;
  std::string why;

 private:
  std::string url_;
  std::array<float, 16> observation_{};
  twire::tensor input_;
  twire::call call_;
  twire::reply reply_;
  std::optional<twire::client> client_;
  clock_type::time_point next_try_{};
  std::chrono::milliseconds pause_ = 10ms;
};

static int run(int argc, char **argv) {
  if (argc != 6) throw std::invalid_argument("usage: robot URL MODEL INPUT STEPS PERIOD_MS");
  const int steps = std::atoi(argv[4]);
  const auto period = std::chrono::milliseconds(std::atoi(argv[5]));
  if (steps < 1 || period < 1ms) throw std::invalid_argument("STEPS and PERIOD_MS are 1 or more");
  policy brain(argv[1], argv[2], argv[3]);
  float action = 0;
  int fresh = 0;
  brain.connect(clock_type::now() + 5s);
  auto tick = clock_type::now();
  for (int step = 0; step < steps; step++) {
    tick += period;
    if (const auto next = brain.act(static_cast<float>(step), tick)) {
      action = *next;
      fresh++;
    }
    std::this_thread::sleep_until(tick);
  }
  std::printf("%d steps, %d with a fresh action, %d connections, last action %g\n", steps, fresh, brain.connections,
              static_cast<double>(action));
  if (!brain.why.empty()) std::printf("last trouble: %s\n", brain.why.c_str());
  return fresh == 0;
}

int main(int argc, char **argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "robot: %s\n", error.what());
    return 1;
  }
}
