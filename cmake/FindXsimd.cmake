# Finds xsimd >= 13, header-only: an installed one, else the headers that the wheel pythran==0.18.1, a
# build requirement, carries. (Debian 12's libxsimd-dev is 8.1: too old.) Sets XSIMD_INCLUDE_DIR.

find_package(xsimd 13 CONFIG QUIET)
if(xsimd_FOUND)
  get_target_property(XSIMD_INCLUDE_DIR xsimd INTERFACE_INCLUDE_DIRECTORIES)
else()
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
            "import importlib.util as u; s = u.find_spec('pythran'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE XSIMD_INCLUDE_DIR OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT EXISTS "${XSIMD_INCLUDE_DIR}/xsimd/xsimd.hpp")
    message(FATAL_ERROR "xsimd >= 13 not found: install it, or its headers with pip install pythran==0.18.1")
  endif()
endif()
message(STATUS "xsimd in ${XSIMD_INCLUDE_DIR}")
