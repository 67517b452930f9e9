# Sets CUDA_INCLUDE_DIRS to directories with the headers of a CUDA toolkit, version 13 or newer. The
# toolkit itself is not needed: where there is none, three wheels from PyPI hold the headers.
set(CUDA_INCLUDE_DIR "" CACHE PATH "Directory of cuda_fp16.h (default: looked for)")

function(holds_cuda_headers directory result)
  set(${result} FALSE PARENT_SCOPE)
  foreach(header cuda_fp16.h cuda_bf16.h cuda_runtime_api.h vector_types.h crt/host_defines.h)
    if(NOT EXISTS "${directory}/${header}")
      return()
    endif()
  endforeach()
  file(STRINGS "${directory}/cuda_runtime_api.h" version REGEX "^#define CUDART_VERSION ")
  string(REGEX MATCH "[0-9]+" version "${version}")
  if(version GREATER_EQUAL 13000)
    set(${result} TRUE PARENT_SCOPE)
  endif()
endfunction()

if(CUDA_INCLUDE_DIR)
  set(candidates "${CUDA_INCLUDE_DIR}")
else()
  set(candidates)
  find_program(NVCC nvcc)
  if(NVCC)
    file(REAL_PATH "${NVCC}" nvcc)
    cmake_path(GET nvcc PARENT_PATH bin)
    list(APPEND candidates "${bin}/../include")
  endif()
  if(DEFINED ENV{CUDA_HOME})
    list(APPEND candidates "$ENV{CUDA_HOME}/include")
  endif()
  list(APPEND candidates /usr/local/cuda/include)
  find_package(Python3 COMPONENTS Interpreter)
  if(Python3_FOUND)
    execute_process(
      COMMAND "${Python3_EXECUTABLE}" -c "import nvidia; print(*nvidia.__path__, sep=';')"
      OUTPUT_VARIABLE wheels
      OUTPUT_STRIP_TRAILING_WHITESPACE
      ERROR_QUIET)
    foreach(wheel IN LISTS wheels)
      list(APPEND candidates "${wheel}/cu13/include")
    endforeach()
  endif()
endif()

foreach(candidate IN LISTS candidates)
  holds_cuda_headers("${candidate}" found)
  if(found)
    # <nv/target> is in the one or in the other, depending on how the toolkit was packaged.
    set(CUDA_INCLUDE_DIRS "${candidate}" "${candidate}/cccl")
    message(STATUS "CUDA headers: ${candidate}")
    return()
  endif()
endforeach()
message(FATAL_ERROR
  "No CUDA headers (version 13 or newer) in: ${candidates}. Install a toolkit, or "
  "nvidia-cuda-runtime, nvidia-cuda-crt and nvidia-cuda-cccl from PyPI, or pass "
  "-DCUDA_INCLUDE_DIR.")
