// misuse.cpp: what twire.hpp does with objects that were moved from, with times below 0 and with temporaries. `misuse URL` prints
// "ok", or what does not hold; driven by tests/c/test_c_misuse.py. What must not compile is there.
#include "twire.hpp"

#include <iostream>

namespace {

using namespace std::chrono_literals;

void require(bool rule, const char *what) {
  if (!rule) throw std::runtime_error(what);
}

template <class Act>
void require_error(int code, Act act, const char *what) {
  try {
    act();
  } catch (const twire::error &e) {
    require(e.code() == code && *e.what(), what);
    return;
  }
  throw std::runtime_error(std::string("no error: ") + what);
}

const float X[4] = {1, 2, 3, 4};
const twire::tensor INPUT("x", X, {1, 4});

void dims_outlive_their_tensor(twire::client &client, const twire::call &echo) {
  twire::reply reply;
  client.infer(echo, {INPUT}, reply);
  auto dims = reply["y"].dims();
  std::int64_t product = 1;
  for (std::int64_t n : reply[0].dims()) product *= n;
  require(dims.size() == 2 && dims[0] == 1 && dims.data()[1] == 4 && dims.end()[-1] == 4 && product == 4, "dims are kept");
  require(twire::tensor("x", X, {1, 1, 1, 1, 1, 1, 1, 1, 1}).dims().size() == 8, "no more dims than a tensor has");
}

void times_below_zero(twire::client &client, const twire::call &echo) {
  twire::reply reply;
  for (auto timeout : {-1ns, -5000000000ns, std::chrono::nanoseconds::min()}) {
    twire::call_options late;
    late.timeout = timeout;
    require_error(TWIRE_DEADLINE_EXCEEDED, [&] { client.infer(echo, {INPUT}, reply, late); }, "a deadline that has passed");
    require(!client.poll(timeout), "a wait that is over");
  }
  twire::reply slow;
  client.submit(twire::call("sleeps", {INPUT}), {INPUT}, slow);
  require(!client.poll(-1ns), "a wait below 0 does not wait");
  require(client.poll(std::chrono::nanoseconds::max()).has_value(), "the longest wait");
}

void moved_from(const std::string &url, const twire::call &echo) {
  twire::client gone(url);
  twire::client client(std::move(gone));
  twire::reply reply;
  require_error(TWIRE_E_ARGUMENT, [&] { gone.infer(echo, {INPUT}, reply); }, "infer of a client moved from");
  require_error(TWIRE_E_ARGUMENT, [&] { gone.submit(echo, {INPUT}, reply); }, "submit of a client moved from");
  require_error(TWIRE_E_ARGUMENT, [&] { gone.poll(0ns); }, "poll of a client moved from");
  require_error(TWIRE_E_ARGUMENT, [&] { gone.flush(); }, "flush of a client moved from");
  require_error(TWIRE_E_ARGUMENT, [&] { gone.step(); }, "step of a client moved from");
  require(!gone.wants_write() && !gone.next_deadline(), "a client moved from wants nothing");
  gone.cancel(reply);
  require(!gone.alive() && gone.in_flight() == 0 && gone.fd() == -1, "a client moved from is not alive");

  twire::call lost("echo", {INPUT});
  twire::call kept(std::move(lost));
  require_error(TWIRE_E_ARGUMENT, [&] { client.infer(lost, {INPUT}, reply); }, "a call moved from");
  client.infer(kept, {INPUT}, reply);

  twire::reply other(std::move(reply));
  require(other.ok() && other.size() == 1, "a reply moves with its tensors");
  require_error(TWIRE_E_ARGUMENT, [&] { client.infer(kept, {INPUT}, reply); }, "infer into a reply moved from");
  require_error(TWIRE_E_ARGUMENT, [&] { client.submit(kept, {INPUT}, reply); }, "submit with a reply moved from");
  require_error(TWIRE_E_ARGUMENT, [&] { (void)reply.require(); }, "require of a reply moved from");
  require(!reply.ok() && reply.size() == 0 && reply.model().empty() && reply.version().empty() && reply.request_id().empty() &&
              !reply.timing() && !reply.text().empty(),
          "a reply moved from has nothing");
  reply.use_memory(nullptr, 0);
  for (int by_name = 0; by_name < 2; by_name++) try {
      if (by_name) (void)reply["y"];
      else (void)reply[0];
      require(false, "a tensor of a reply moved from");
    } catch (const std::out_of_range &) {
    }
  reply = twire::reply();
  client.infer(kept, {INPUT}, reply);
}

}  // namespace

int main(int count, char **arguments) {
  if (count != 2) return 2;
  try {
    twire::client client(arguments[1]);
    const twire::call echo("echo", {INPUT});
    dims_outlive_their_tensor(client, echo);
    times_below_zero(client, echo);
    moved_from(arguments[1], echo);
    require_error(TWIRE_E_ARGUMENT, [] { twire::tensor(nullptr, X, {1, 4}).as<double>(); }, "a tensor without a name");
    std::cout << "ok\n";
  } catch (const std::exception &e) {
    std::cout << "failed: " << e.what() << "\n";
    return 1;
  }
}
