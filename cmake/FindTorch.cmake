# Finds torch's headers and libtorch_cpu.so in the environment that gradkern is installed into.
#
# Not find_package(Torch): that wants the whole C++ interface and its flags, of which nothing is used.
# torch is not a build requirement of ours either, because a build environment's torch (the newest,
# several GB of CUDA packages) need not be the one in use.
#
# Sets TORCH_INCLUDE_DIR, TORCH_CPU_LIBRARY, GRADKERN_TORCH_VERSION, TORCH_HAS_CUDA.

function(locate_torch interpreter result)
  # -I drops PYTHONPATH, with which build isolation hides the real environment. find_spec does not
  # import torch, which would take seconds.
  execute_process(
    COMMAND "${interpreter}" -I -c
            "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE location OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(${result} "${location}" PARENT_SCOPE)
endfunction()

locate_torch("${Python_EXECUTABLE}" torch_dir)
if(NOT torch_dir AND DEFINED ENV{VIRTUAL_ENV})
  locate_torch("$ENV{VIRTUAL_ENV}/bin/python" torch_dir)
endif()
if(NOT torch_dir)
  message(FATAL_ERROR
    "gradkern is built against the torch of the environment it is installed into, and found none for "
    "${Python_EXECUTABLE}. Install torch >= 2.10 first; if it is installed, build without isolation: "
    "pip install --no-build-isolation .")
endif()

set(TORCH_INCLUDE_DIR "${torch_dir}/include")
set(TORCH_CPU_LIBRARY "${torch_dir}/lib/libtorch_cpu.so")
file(READ "${torch_dir}/version.py" version_file)
string(REGEX MATCH "__version__ = '([^']+)'" _ "${version_file}")
set(GRADKERN_TORCH_VERSION "${CMAKE_MATCH_1}")
string(REGEX MATCH "cuda: [^=]*= '([0-9.]+)'" _ "${version_file}")
if(CMAKE_MATCH_1)
  set(TORCH_HAS_CUDA TRUE)
else()
  set(TORCH_HAS_CUDA FALSE)
endif()
string(REGEX MATCH "^[0-9]+\\.[0-9]+" torch_release "${GRADKERN_TORCH_VERSION}")
if(torch_release VERSION_LESS 2.10)
  message(FATAL_ERROR "gradkern needs torch >= 2.10; ${torch_dir} is ${GRADKERN_TORCH_VERSION}")
endif()
message(STATUS "torch ${GRADKERN_TORCH_VERSION} in ${torch_dir} (CUDA: ${TORCH_HAS_CUDA})")
