// wrapper.cpp: twire.hpp against a live server: `wrapper URL` prints one line for each thing that holds.
#include "twire.hpp"

#include <iostream>

int main(int, char **arguments) {
  std::vector<float> x{1, 2, 3, 4};
  try {
    twire::client client(arguments[1]);
    twire::call echo("echo", {twire::tensor("x", x.data(), {1, 4})});
    twire::reply reply;
    twire::call_options options;
    options.want_timing = true;
    client.infer(echo, {twire::tensor("x", x.data(), {1, 4})}, reply, options);
    auto y = reply["y"].as<float>();
    std::cout << "infer " << (std::vector<float>(y.begin(), y.end()) == x) << reply.timing().has_value() << reply[0].dims()[1]
              << reply.model() << "\n";
    std::vector<twire::reply> replies(8);
    for (auto &one : replies) client.submit(echo, {twire::tensor("x", x.data(), {1, 4})}, one, &one);
    while (client.in_flight()) {
      auto *done = static_cast<twire::reply *>(*client.poll(std::chrono::seconds(5)));
      std::cout << done->ok();
    }
    std::cout << " submit\n";
    twire::call_options later;
    later.timeout = std::chrono::seconds(30);
    bool idle = !client.wants_write() && !client.next_deadline();
    for (auto &one : replies) client.submit(echo, {twire::tensor("x", x.data(), {1, 4})}, one, &one, later);
    bool due = client.wants_write() && client.next_deadline() > std::chrono::steady_clock::now();
    bool flushed = client.flush() && !client.wants_write();
    while (client.in_flight()) {
      if (!client.step()) break;
      while (auto *done = static_cast<twire::reply *>(client.poll(std::chrono::nanoseconds(0)).value_or(nullptr))) std::cout << done->ok();
    }
    std::cout << " loop " << idle << due << flushed << "\n";
    try {
      twire::call nowhere("nowhere", {});
      client.infer(nowhere, {}, reply);
    } catch (const twire::error &e) {
      std::cout << "error " << e.code() << e.not_started() << (e.code() == TWIRE_NOT_FOUND) << "\n";
    }
    try {
      reply["y"].as<double>();
    } catch (const std::out_of_range &) {
      std::cout << "no tensor after an error\n";
    }
  } catch (const std::exception &e) {
    std::cout << "failed " << e.what() << "\n";
  }
}
