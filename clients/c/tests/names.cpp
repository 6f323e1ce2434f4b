// names.cpp: inputs go to the model by their names, in whatever order they are given. `names URL` prints "ok", or what does not
// hold; driven by tests/c/test_c_names.py, whose model "digits" answers y = 100 a + 10 b + c and z = -y.
#include "twire.hpp"

#include <algorithm>
#include <iostream>

namespace {

void require(bool rule, const std::string &what) {
  if (!rule) throw std::runtime_error(what);
}

const float A[] = {1, 4}, B[] = {2, 5}, C[] = {3, 6};

void every_order(twire::client &client) {
  const std::vector<twire::tensor> inputs{{"a", A, {1, 2}}, {"b", B, {1, 2}}, {"c", C, {1, 2}}};
  twire::reply reply;
  std::vector<int> made{0, 1, 2};
  do {
    const auto pick = [&inputs](const std::vector<int> &order) {
      std::vector<twire::tensor> picked;
      for (int i : order) picked.push_back(inputs[static_cast<std::size_t>(i)]);
      return picked;
    };
    twire::call digits("digits", pick(made));
    std::vector<int> given{0, 1, 2};
    do {
      client.infer(digits, pick(given), reply);
      require(reply["y"].as<float>()[0] == 123 && reply["y"].as<float>()[1] == 456, "inputs are matched by name");
      require(reply["z"].as<float>()[1] == -456, "outputs are found by name");
    } while (std::next_permutation(given.begin(), given.end()));
  } while (std::next_permutation(made.begin(), made.end()));
}

void each_with_its_own_type(twire::client &client) {
  const std::int64_t wide[] = {7};
  const twire::tensor x("x", A, {1, 2}), n("n", wide, {1, 1});
  twire::call call("mixed", {x, n});
  twire::reply reply;
  client.infer(call, {n, x}, reply);
  require(reply["y"].as<float>()[1] == 11, "dtype and shape go with the name");
}

void refused(twire::client &client, const char *name, std::vector<twire::tensor> inputs, const char *word) {
  twire::call call("digits", {{"a", A, {1, 2}}, {"b", B, {1, 2}}, {"c", C, {1, 2}}});
  twire::reply reply;
  try {
    client.infer(call, inputs, reply);
  } catch (const twire::error &e) {
    const std::string what = e.what();
    require(e.code() == TWIRE_E_ARGUMENT && e.not_started() && what.find(word) != std::string::npos, name + (": " + what));
    return;
  }
  require(false, name);
}

void what_does_not_fit(twire::client &client) {
  const twire::tensor a("a", A, {1, 2}), b("b", B, {1, 2}), c("c", C, {1, 2}), d("d", C, {1, 2}), nameless(nullptr, C, {1, 2});
  const std::int64_t wide[] = {1, 2};
  refused(client, "a name twice", {a, b, b}, "'c' is missing");
  refused(client, "a name that is none of the call's", {d, a, b}, "'c' is missing");
  refused(client, "no name", {a, b, nameless}, "without a name");
  refused(client, "another dtype under the name", {c, b, twire::tensor("a", wide, {1, 2})}, "'a'");
  refused(client, "another rank under the name", {c, b, twire::tensor("a", A, {2})}, "'a'");
  refused(client, "too few", {a, b}, "3 inputs");
  refused(client, "too many", {a, b, c, d}, "3 inputs");
  char name[] = "c"; // the call has a name of its own, not the caller's memory of it
  twire::call call("digits", {a, b, twire::tensor(name, C, {1, 2})});
  name[0] = 'q';
  twire::reply reply;
  client.infer(call, {a, b, c}, reply);
  try {
    client.infer(call, {a, b, twire::tensor(name, C, {1, 2})}, reply);
    require(false, "a name that has changed");
  } catch (const twire::error &e) {
    require(e.code() == TWIRE_E_ARGUMENT, e.what());
  }
}

void many(twire::client &client) { // the most that one call can have, backwards
  std::vector<std::string> names;
  for (int i = 0; i < 100; i++) names.push_back("n" + std::to_string(i));
  std::vector<float> values(names.size());
  std::vector<twire::tensor> inputs;
  for (std::size_t i = 0; i < names.size(); i++) {
    values[i] = static_cast<float>(i);
    inputs.emplace_back(names[i].c_str(), &values[i], std::initializer_list<std::int64_t>{1});
  }
  twire::call call("many", inputs);
  std::reverse(inputs.begin(), inputs.end());
  twire::reply reply;
  client.infer(call, inputs, reply);
  require(reply["y"].as<float>()[0] == 98, "n98 - 2 n0 is 98");
}

}  // namespace

int main(int count, char **arguments) {
  if (count != 2) return 2;
  try {
    twire::client client(arguments[1]);
    every_order(client);
    each_with_its_own_type(client);
    what_does_not_fit(client);
    many(client);
    std::cout << "ok\n";
  } catch (const std::exception &e) {
    std::cout << "failed: " << e.what() << "\n";
    return 1;
  }
}
