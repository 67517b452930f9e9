// Makes a boxed kernel, as the stable ABI registers it, of an adapter's typed signature.
//
// The same job as TORCH_BOX, for the argument types our operators have and for move-only handles.
#pragma once

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "torch_ops/boxed_tensors.h"

namespace gradkern {
namespace boxing {

template <class T>
T unbox(StableIValue value) {
  if constexpr (std::is_same_v<T, TensorHandle>) {
    return TensorHandle(torch::stable::detail::to<AtenTensorHandle>(value));
  } else if constexpr (std::is_same_v<T, TensorList>) {
    struct List {
      StableListHandle handle;
      ~List() { torch_delete_list(handle); }
    } list{torch::stable::detail::to<StableListHandle>(value)};
    size_t size;
    check(torch_list_size(list.handle, &size));
    TensorList tensors;
    tensors.reserve(size);
    for (size_t i = 0; i < size; i++) {
      StableIValue element;
      check(torch_list_get_item(list.handle, i, &element));
      tensors.push_back(unbox<TensorHandle>(element));
    }
    return tensors;
  } else if constexpr (std::is_same_v<T, std::optional<TensorHandle>>) {
    const auto handle = torch::stable::detail::to<std::optional<AtenTensorHandle>>(value);
    return handle ? T(TensorHandle(*handle)) : T();
  } else {
    return torch::stable::detail::to<T>(value);
  }
}

// The stack takes over the handle's reference.
inline StableIValue box(TensorHandle tensor) {
  return torch::stable::detail::from(tensor.release());
}

inline void box_results(StableIValue* stack, TensorHandle tensor) {
  stack[0] = box(std::move(tensor));
}
template <class... T>
void box_results(StableIValue* stack, std::tuple<T...> tensors) {
  std::apply([&](auto&... tensor) { ((*stack++ = box(std::move(tensor))), ...); }, tensors);
}

template <auto kAdapter, class Result, class... Arguments, size_t... kIndex>
void call(StableIValue* stack, Result (*)(Arguments...), std::index_sequence<kIndex...>) {
  // Braces: the arguments are taken off the stack from left to right.
  std::tuple<std::remove_cvref_t<Arguments>...> arguments{
      unbox<std::remove_cvref_t<Arguments>>(stack[kIndex])...};
  if constexpr (std::is_void_v<Result>) {
    std::apply(kAdapter, arguments);
  } else {
    box_results(stack, std::apply(kAdapter, arguments));
  }
}

template <class Result, class... Arguments>
constexpr size_t arity(Result (*)(Arguments...)) {
  return sizeof...(Arguments);
}

}  // namespace boxing

template <auto kAdapter>
void boxed_kernel(StableIValue* stack, uint64_t, uint64_t) {
  boxing::call<kAdapter>(stack, kAdapter, std::make_index_sequence<boxing::arity(kAdapter)>());
}

}  // namespace gradkern
