// twire.hpp: the tensorwire client in C++17, over twire.h. Header only; link with libtwire.
//
// What lives here: ownership (RAII), errors as exceptions, views instead of pointers. What must not: anything of the wire.
//
//     twire::client client("tw://127.0.0.1:7411");
//     std::vector<float> x{1, 2, 3};
//     twire::call echo("echo", {twire::tensor("x", x.data(), {1, 3})});
//     twire::reply reply;
//     client.infer(echo, {twire::tensor("x", x.data(), {1, 3})}, reply);
//     twire::span<const float> y = reply["y"].as<float>();
//
// Units, threads and lifetimes are those of twire.h: times are std::chrono durations here; tensor memory stays the caller's
// until its call is over. Clients, calls, replies and tensor memory go in any order, by an exception too, with calls in flight:
// a reply that goes gives its call up. A reply moves freely, also while it is submitted. Destructors never throw.
#ifndef TWIRE_HPP
#define TWIRE_HPP

#include "twire.h"

#include <algorithm>
#include <chrono>
#include <complex>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace twire {

// What went wrong: `code` is a status of the server (1..16) or a TWIRE_E_*; what() says it in words.
class error : public std::runtime_error {
 public:
  error(int code, const std::string &text, bool not_started = false)
      : std::runtime_error(text.empty() ? twire_strerror(code) : text), code_(code), not_started_(not_started) {}
  int code() const noexcept { return code_; }
  // It certainly did not run: a retry is safe.
  bool not_started() const noexcept { return not_started_; }

 private:
  int code_;
  bool not_started_;
};

// A view of elements in someone else's memory (std::span is C++20).
template <class T>
class span {
 public:
  span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
  T *data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  T *begin() const noexcept { return data_; }
  T *end() const noexcept { return data_ + size_; }
  T &operator[](std::size_t i) const noexcept { return data_[i]; }

 private:
  T *data_;
  std::size_t size_;
};

// The dtype of a C++ type; types without one do not compile.
template <class T>
struct dtype_of;
template <> struct dtype_of<bool> { static constexpr twire_dtype value = TWIRE_BOOL; };
template <> struct dtype_of<std::int8_t> { static constexpr twire_dtype value = TWIRE_INT8; };
template <> struct dtype_of<std::int16_t> { static constexpr twire_dtype value = TWIRE_INT16; };
template <> struct dtype_of<std::int32_t> { static constexpr twire_dtype value = TWIRE_INT32; };
template <> struct dtype_of<std::int64_t> { static constexpr twire_dtype value = TWIRE_INT64; };
template <> struct dtype_of<std::uint8_t> { static constexpr twire_dtype value = TWIRE_UINT8; };
template <> struct dtype_of<std::uint16_t> { static constexpr twire_dtype value = TWIRE_UINT16; };
template <> struct dtype_of<std::uint32_t> { static constexpr twire_dtype value = TWIRE_UINT32; };
template <> struct dtype_of<std::uint64_t> { static constexpr twire_dtype value = TWIRE_UINT64; };
template <> struct dtype_of<float> { static constexpr twire_dtype value = TWIRE_FLOAT32; };
template <> struct dtype_of<double> { static constexpr twire_dtype value = TWIRE_FLOAT64; };
template <> struct dtype_of<std::complex<float>> { static constexpr twire_dtype value = TWIRE_COMPLEX64; };
template <> struct dtype_of<std::complex<double>> { static constexpr twire_dtype value = TWIRE_COMPLEX128; };

// The sizes of a tensor's dims, by value: good for as long as one keeps it.
class extents {
 public:
  explicit extents(const twire_tensor &t) noexcept : size_(std::min<std::size_t>(t.dim_count, TWIRE_MAX_DIMS)) {
    std::copy_n(t.shape, size_, sizes_);
  }
  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  std::int64_t operator[](std::size_t i) const noexcept { return sizes_[i]; }
  const std::int64_t *data() const & noexcept { return sizes_; }
  const std::int64_t *begin() const & noexcept { return sizes_; }
  const std::int64_t *end() const & noexcept { return sizes_ + size_; }
  const std::int64_t *data() const && = delete;  // of a temporary
  const std::int64_t *begin() const && = delete;
  const std::int64_t *end() const && = delete;

 private:
  std::size_t size_;
  std::int64_t sizes_[TWIRE_MAX_DIMS];
};

// One tensor: a twire_tensor with a constructor and typed access.
class tensor : public twire_tensor {
 public:
  tensor(const twire_tensor &other) : twire_tensor(other) {}
  // Any dtype, named: for bfloat16, float8 and the like, which C++ has no type for.
  tensor(const char *name_, twire_dtype dtype_, const void *data_, std::initializer_list<std::int64_t> shape_)
      : twire_tensor(twire_dense(name_, dtype_, data_, static_cast<std::uint32_t>(shape_.size()), shape_.begin())) {}
  template <class T>
  tensor(const char *name_, const T *data_, std::initializer_list<std::int64_t> shape_)
      : tensor(name_, dtype_of<T>::value, data_, shape_) {}

  // Its elements. Throws error (TWIRE_E_ARGUMENT) if T is not its type.
  template <class T>
  span<const T> as() const {
    if (dtype != dtype_of<T>::value) {
      const char *is = twire_dtype_name(dtype);
      throw error(TWIRE_E_ARGUMENT, "tensor '" + std::string(name ? name : "") + "' is " + (is ? is : "of no dtype") + ", not " +
                                        twire_dtype_name(dtype_of<T>::value));
    }
    return span<const T>(static_cast<const T *>(data), size / sizeof(T));
  }
  extents dims() const noexcept { return extents(*this); }
};

// A call site, made once: model, and name, dtype and rank of each input (the data of `inputs` is not read).
class call {
 public:
  call(const std::string &model, const std::vector<tensor> &inputs, const std::string &version = "")
      : inputs_(inputs.size()) {
    std::vector<twire_tensor> plain(inputs.begin(), inputs.end());
    twire_call *made = nullptr;
    int status = twire_call_new(model.c_str(), version.c_str(), plain.data(), plain.size(), &made);
    if (status != TWIRE_OK) throw error(status, twire_connect_error(), true);
    call_.reset(made);
  }
  twire_call *get() const noexcept { return call_.get(); }
  std::size_t inputs() const noexcept { return inputs_; }

 private:
  struct release {
    void operator()(twire_call *p) const noexcept { twire_call_free(p); }
  };
  std::unique_ptr<twire_call, release> call_;
  std::size_t inputs_;
};

// The outcome of a call, in memory that is used again by the next one. Views are valid until then. One that was moved from has
// no tensors, its status is TWIRE_E_ARGUMENT.
class reply {
 public:
  reply() : reply_(twire_reply_new()) {
    if (!reply_) throw std::bad_alloc();
  }
  int status() const noexcept { return twire_reply_status(get()); }
  bool ok() const noexcept { return status() == TWIRE_OK; }
  bool not_started() const noexcept { return twire_reply_not_started(get()); }
  std::string text() const { return twire_reply_text(get()); }
  std::string model() const { return twire_reply_model(get()); }
  std::string version() const { return twire_reply_version(get()); }
  std::string request_id() const {
    char id[TWIRE_REQUEST_ID];
    return twire_reply_request_id(get(), id);
  }
  std::size_t size() const noexcept { return twire_reply_tensor_count(get()); }
  // The i-th tensor, or that of a name; throws std::out_of_range if there is none.
  tensor operator[](std::size_t i) const & {
    if (i >= size()) throw std::out_of_range("the reply has fewer tensors");
    return twire_reply_tensors(get())[i];
  }
  tensor operator[](const std::string &name) const & {
    const twire_tensor *found = twire_reply_tensor(get(), name.c_str());
    if (!found) throw std::out_of_range("the reply has no tensor '" + name + "'");
    return *found;
  }
  tensor operator[](std::size_t i) const && = delete;  // of a temporary, whose memory goes
  tensor operator[](const std::string &name) const && = delete;
  std::optional<twire_timing> timing() const noexcept {
    twire_timing t{};
    return twire_reply_timing(get(), &t) ? std::optional<twire_timing>(t) : std::nullopt;
  }
  // Receive into the caller's memory; nullptr: the library's own again.
  void use_memory(void *memory, std::size_t bytes) noexcept { twire_reply_memory(get(), memory, bytes); }
  // Throw what the status says, if it is not OK.
  const reply &require() const & {
    if (!ok()) throw error(status(), text(), not_started());
    return *this;
  }
  const reply &require() const && = delete;
  twire_reply *get() const noexcept { return reply_.get(); }

 private:
  struct release {
    void operator()(twire_reply *p) const noexcept { twire_reply_free(p); }
  };
  std::unique_ptr<twire_reply, release> reply_;
};

struct call_options {
  std::chrono::nanoseconds timeout{0};  // 0 = that of the client; below 0: over at once, DEADLINE_EXCEEDED
  bool want_timing = false;
  std::uint8_t priority = 0;
};

// A connection. Throws error when it cannot be made. One that was moved from refuses calls (TWIRE_E_ARGUMENT) and is not alive.
class client {
 public:
  explicit client(const std::string &url, const twire_options &options = {}) {
    twire_client *made = nullptr;
    int status = twire_connect(url.c_str(), &options, &made);
    if (status != TWIRE_OK) throw error(status, twire_connect_error(), true);
    client_.reset(made);
  }

  // One call, from start to end. Throws error unless it succeeds.
  const reply &infer(const call &c, const std::vector<tensor> &inputs, reply &r, const call_options &options = {}) {
    twire_call_options plain = options_of(options);
    std::vector<twire_tensor> tensors = tensors_of(c, inputs);
    int status = twire_infer(get(), c.get(), tensors.data(), &plain, r.get());
    if (status != TWIRE_OK) refuse(status, r);
    return r;
  }
  // Queue one call; `user` is what poll gives back. Throws error if it is not under way.
  void submit(const call &c, const std::vector<tensor> &inputs, reply &r, void *user = nullptr,
              const call_options &options = {}) {
    twire_call_options plain = options_of(options);
    std::vector<twire_tensor> tensors = tensors_of(c, inputs);
    int status = twire_submit(get(), c.get(), tensors.data(), &plain, r.get());
    if (status != TWIRE_OK) refuse(status, r);
    twire_reply_set_user(r.get(), user);
  }
  // The `user` of the next call that is over (its reply says how); nullopt if none is in time, or none is under way. 0 or less
  // does not wait; nanoseconds::max() is as long as it takes.
  std::optional<void *> poll(std::chrono::nanoseconds timeout) {
    twire_reply *done = nullptr;
    int status = twire_poll(get(), duration_of(timeout), &done);
    return settle(status) ? std::optional<void *>(twire_reply_user(done)) : std::nullopt;
  }
  // Write what is queued. False: a deadline passed first, or what is left is of calls that are over; see twire_flush.
  bool flush() { return settle(twire_flush(get())); }
  // For a loop of one's own: write, read and end late calls without waiting. False: the connection has ended; see twire_step.
  bool step() {
    int status = twire_step(get());
    return status != TWIRE_E_CLOSED && settle(status);
  }
  bool wants_write() const noexcept { return twire_wants_write(get()); }
  // When the next step is due, whatever the socket says.
  std::optional<std::chrono::steady_clock::time_point> next_deadline() const noexcept {
    std::uint64_t at = twire_next_deadline(get());
    if (!at) return std::nullopt;
    return std::chrono::steady_clock::time_point(
        std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::nanoseconds(at)));
  }
  void cancel(reply &r) noexcept { twire_cancel(get(), r.get()); }
  bool alive() const noexcept { return twire_alive(get()); }
  std::size_t in_flight() const noexcept { return twire_in_flight(get()); }
  int fd() const noexcept { return twire_fd(get()); }
  twire_client *get() const noexcept { return client_.get(); }

 private:
  // Below 0 is over at once; -1 would be UINT64_MAX, which is for ever.
  static std::uint64_t duration_of(std::chrono::nanoseconds d) noexcept {
    return d.count() < 0 ? std::uint64_t{1} << 63 : static_cast<std::uint64_t>(d.count());
  }
  static twire_call_options options_of(const call_options &options) {
    twire_call_options plain{};
    plain.timeout = duration_of(options.timeout);
    plain.want_timing = options.want_timing;
    plain.priority = options.priority;
    return plain;
  }
  static std::vector<twire_tensor> tensors_of(const call &c, const std::vector<tensor> &inputs) {
    if (inputs.size() != c.inputs())
      throw error(TWIRE_E_ARGUMENT,
                  "the call has " + std::to_string(c.inputs()) + " inputs, not " + std::to_string(inputs.size()), true);
    return std::vector<twire_tensor>(inputs.begin(), inputs.end());
  }
  // True: done. False: not in time.
  bool settle(int status) const {
    if (status == TWIRE_E_AGAIN || status == TWIRE_DEADLINE_EXCEEDED) return false;
    if (status != TWIRE_OK) throw error(status, client_ ? twire_error(get()) : "E_ARGUMENT: the client was moved from", true);
    return true;
  }
  [[noreturn]] static void refuse(int status, const reply &r) {
    if (status == TWIRE_E_BUSY) throw error(status, "E_BUSY: the reply is of a call that is under way", true);
    throw error(status, r.text(), r.not_started());
  }
  struct release {
    void operator()(twire_client *p) const noexcept { twire_close(p); }
  };
  std::unique_ptr<twire_client, release> client_;
};

}  // namespace twire

#endif
