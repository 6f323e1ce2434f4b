// order.cpp: clients, calls, replies and tensor memory of twire.hpp that go in every order, while calls are in flight. Built
// with sanitizers, which see whoever reads or writes what is gone. `order URL NAME` runs one case; driven by tests/c/test_c_order.py.
//
// Models of the server: "echo" answers float32 [n, 4] with itself; "hold" is answered never, and nothing is read after it.
#include "twire.hpp"

#include <algorithm>
#include <array>
#include <iostream>
#include <thread>

namespace {

using values = std::vector<float>;

twire::tensor row(const values &x) { return twire::tensor("x", x.data(), {static_cast<std::int64_t>(x.size() / 4), 4}); }

void require(bool rule, const char *what) {
  if (!rule) throw std::runtime_error(what);
}

// What a caller may hold when something is thrown. Each goes by itself.
struct held {
  std::unique_ptr<twire::client> client;
  std::unique_ptr<twire::call> call;
  std::unique_ptr<std::vector<twire::reply>> replies;
  std::unique_ptr<values> x;

  void drop(int which) {
    if (which == 0) client.reset();
    if (which == 1) call.reset();
    if (which == 2) replies.reset();
    if (which == 3) x.reset();
  }
};

enum state { QUEUED, SENT, DONE, HALF_SENT };

// Four calls that are queued, sent, answered but not handed out, or half sent.
void put_in_flight(held &h, const std::string &url, state wanted) {
  h.client = std::make_unique<twire::client>(url);
  h.x = std::make_unique<values>(wanted == HALF_SENT ? values(std::size_t{1} << 22) : values{1, 2, 3, 4});
  h.replies = std::make_unique<std::vector<twire::reply>>(4);
  h.call = std::make_unique<twire::call>("echo", std::vector{row(*h.x)});
  if (wanted == HALF_SENT) {
    static twire::reply never;
    twire::call hold("hold", {});
    never = twire::reply();
    h.client->submit(hold, {}, never);
  }
  for (auto &one : *h.replies) h.client->submit(*h.call, {row(*h.x)}, one);
  if (wanted == SENT) twire_flush(h.client->get());
  if (wanted == HALF_SENT) {
    twire::call small("echo", {row({1, 2, 3, 4})});
    require(!h.client->poll(std::chrono::nanoseconds(0)), "a call that is half sent is not over");
  }
  if (wanted == DONE) { // one more, which is over after the others and has no part in what follows
    twire::reply last;
    h.client->infer(*h.call, {row(*h.x)}, last);
  }
}

void every_order(const std::string &url, state wanted) {
  std::array<int, 4> order{0, 1, 2, 3};
  do {
    held h;
    put_in_flight(h, url, wanted);
    for (int which : order) h.drop(which);
  } while (std::next_permutation(order.begin(), order.end()));
}

// As the header shows it: the client first, then what it works with, and then something throws.
void throws_after_submit(const std::string &url) {
  twire::client client(url);
  values x{1, 2, 3, 4};
  twire::call echo("echo", {row(x)});
  std::vector<twire::reply> replies(8);
  values given(4);
  replies[0].use_memory(given.data(), 4 * sizeof(float));
  for (auto &one : replies) client.submit(echo, {row(x)}, one);
  twire_flush(client.get());
  throw std::domain_error("thrown with calls in flight");
}

void a_reply_that_goes_before_poll(const std::string &url) {
  twire::client client(url);
  const values x{1, 2, 3, 4};
  twire::call echo("echo", {row(x)});
  twire::reply stays;
  {
    twire::reply goes;
    client.submit(echo, {row(x)}, goes, &goes);
    client.submit(echo, {row(x)}, stays, &stays);
    twire_flush(client.get());
  }
  require(client.in_flight() == 1, "a reply that is gone is not in flight");
  require(client.poll(std::chrono::seconds(30)) == &stays, "the other call's reply comes");
  require(stays.require()["y"].as<float>()[3] == 4, "with its values");
  require(!client.poll(std::chrono::seconds(30)), "and nothing else");
  client.infer(echo, {row(x)}, stays);
}

void a_call_that_goes_before_poll(const std::string &url) {
  twire::client client(url);
  const values x{1, 2, 3, 4};
  twire::reply reply;
  client.submit(twire::call("echo", {row(x)}), {row(x)}, reply, &reply);
  require(client.poll(std::chrono::seconds(30)) == &reply, "the reply comes");
  require(reply.require()["y"].as<float>()[0] == 1, "with its values");
}

void things_that_move_while_calls_are_in_flight(const std::string &url) {
  const values x{1, 2, 3, 4};
  twire::client client(url), other(url);
  twire::call first("echo", {row(x)});
  std::vector<twire::reply> replies;
  for (int i = 0; i < 20; i++) { // the vector moves its replies as it grows
    replies.emplace_back();
    client.submit(first, {row(x)}, replies.back());
  }
  twire::call call(std::move(first));
  twire::client moved(std::move(client));
  for (int i = 0; i < 20; i++) require(moved.poll(std::chrono::seconds(30)).has_value(), "each reply comes");
  for (auto &one : replies) require(one.require()["y"].as<float>()[1] == 2, "with its values");

  twire::reply a, b;
  moved.submit(call, {row(x)}, a);
  moved.submit(call, {row(x)}, b);
  a = std::move(b); // a's own call is given up
  require(moved.in_flight() == 1, "one is given up");
  require(moved.poll(std::chrono::seconds(30)).has_value() && a.ok(), "the other is answered");
  moved.submit(call, {row(x)}, a);
  moved = std::move(other); // the first connection ends
  require(a.status() == TWIRE_UNAVAILABLE && a.not_started(), "its call was never sent");
  moved.infer(call, {row(x)}, a);
}

void memory_that_is_taken_back(const std::string &url) {
  twire::client client(url);
  const values x{1, 2, 3, 4};
  twire::call echo("echo", {row(x)});
  twire::reply reply, other;
  auto given = std::make_unique<values>(4);
  reply.use_memory(given->data(), 16);
  client.submit(echo, {row(x)}, reply);
  reply.use_memory(nullptr, 0);
  given.reset();
  require(client.poll(std::chrono::seconds(30)).has_value() && reply.status() == TWIRE_CANCELLED, "the call is given up");
  given = std::make_unique<values>(4);
  reply.use_memory(given->data(), 16);
  client.submit(echo, {row(x)}, reply);
  client.infer(echo, {row(x)}, other); // when this is over, so is the one before it
  reply.use_memory(nullptr, 0);
  given.reset();
  require(client.poll(std::chrono::seconds(30)).has_value() && reply.status() == TWIRE_CANCELLED && reply.size() == 0,
          "a reply without its memory has no tensors");
}

// A reply that is under way has an outcome of its own; another use of it neither changes that nor succeeds.
void a_reply_in_use(const std::string &url) {
  twire::client client(url);
  const values x{1, 2, 3, 4};
  twire::call echo("echo", {row(x)});
  twire::reply reply;
  int first = 0, second = 0;
  client.submit(echo, {row(x)}, reply, &first);
  for (int again = 0; again < 2; again++) {
    try {
      if (again) client.infer(echo, {row(x)}, reply);
      else client.submit(echo, {row(x)}, reply, &second);
      require(false, "a reply in use is refused");
    } catch (const twire::error &e) {
      require(e.code() == TWIRE_E_BUSY && e.not_started(), "it is busy");
    }
  }
  require(client.poll(std::chrono::seconds(30)) == &first && reply.ok(), "the first call is answered");
}

// One client a thread, each with replies that go before, while and after their calls are answered.
void threads(const std::string &url) {
  std::vector<std::thread> all;
  std::array<std::string, 4> wrong;
  for (std::size_t t = 0; t < wrong.size(); t++)
    all.emplace_back([&url, t, &wrong] {
      try {
        for (int i = 0; i < 5; i++) {
          held h;
          put_in_flight(h, url, static_cast<state>((static_cast<std::size_t>(i) + t) % 3));
          for (std::size_t k = 0; k < 4; k++) h.drop(static_cast<int>((k + t) % 4));
        }
      } catch (const std::exception &e) {
        wrong[t] = e.what();
      }
    });
  for (auto &one : all) one.join();
  for (const auto &one : wrong) require(one.empty(), one.c_str());
}

}  // namespace

int main(int count, char **arguments) {
  if (count != 3) return 2;
  const std::string url = arguments[1], name = arguments[2];
  try {
    if (name == "queued") every_order(url, QUEUED);
    else if (name == "sent") every_order(url, SENT);
    else if (name == "done") every_order(url, DONE);
    else if (name == "half-sent") every_order(url, HALF_SENT);
    else if (name == "throws") throws_after_submit(url);
    else if (name == "reply-goes") a_reply_that_goes_before_poll(url);
    else if (name == "call-goes") a_call_that_goes_before_poll(url);
    else if (name == "moves") things_that_move_while_calls_are_in_flight(url);
    else if (name == "memory") memory_that_is_taken_back(url);
    else if (name == "in-use") a_reply_in_use(url);
    else if (name == "threads") threads(url);
    else return 2;
  } catch (const std::domain_error &e) {
    std::cout << e.what() << "\n";
  } catch (const std::exception &e) {
    std::cout << "failed: " << e.what() << "\n";
    return 1;
  }
  std::cout << "ok\n";
}
