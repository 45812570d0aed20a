//! The VMs of a list, as they are in memory.
//!
//! A look at a thousand VMs reads a few fields of each. So these four are not made of JSON, as every
//! other value is, but hold the inventory's own VM and answer those fields from it. They stand for the
//! classes of the same names in `limen._model`: `__class__` and `isinstance` say so, and whatever is not
//! answered here is asked of the true one, which is made of JSON when it is first needed.

use std::fmt;
use std::sync::Arc;

use limen_core::model::{ObservedSpec, Vm, VmSpec, VmState, VmStatus};
use limen_core::service::{ListedVm, VmPage};
use pyo3::basic::CompareOp;
use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

/// A page of VMs as Python's `Page` takes it. Its items are a tuple: they are values already.
pub(crate) fn page<'py>(py: Python<'py>, page: &VmPage) -> PyResult<Bound<'py, PyAny>> {
    let vms = (0..page.vms.len()).map(|place| Py::new(py, ListVm(Part::of(&page.vms, place))));
    let answer = PyDict::new(py);
    answer.set_item("items", PyTuple::new(py, vms.collect::<PyResult<Vec<_>>>()?)?)?;
    answer.set_item("next_cursor", &page.next_cursor)?;
    answer.set_item("event", page.event)?;
    Ok(answer.into_any())
}

/// A VM, of which an object is the whole or a part.
struct Part {
    /// All of the page: one count for a thousand VMs, and none of them is touched before it is read.
    page: Arc<[ListedVm]>,
    place: usize,
    /// The true one.
    made: PyOnceLock<Py<PyAny>>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listed().fmt(f)
    }
}

impl Part {
    fn of(page: &Arc<[ListedVm]>, place: usize) -> Self {
        Self { page: Arc::clone(page), place, made: PyOnceLock::new() }
    }

    /// Another part of the same VM.
    fn part(&self) -> Self {
        Self::of(&self.page, self.place)
    }

    fn listed(&self) -> &ListedVm {
        &self.page[self.place]
    }

    fn vm(&self) -> &Vm {
        &self.listed().vm
    }

    /// The true VM, or what `field` of it is.
    fn made<'py>(&self, py: Python<'py>, field: Option<&str>) -> PyResult<&Bound<'py, PyAny>> {
        let make = || {
            let data = py.import("json")?.call_method1("loads", (&*self.listed().json(),))?;
            let vm = class(py, "Vm")?.call_method1("_of", (data,))?;
            Ok(field.map_or(Ok(vm.clone()), |field| vm.getattr(field))?.unbind())
        };
        self.made.get_or_try_init(py, make).map(|made| made.bind(py))
    }
}

/// A class of `limen._model`.
fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyType>> {
    Ok(py.import("limen._model")?.getattr(name)?.cast_into()?)
}

/// The member of `limen.VmState`.
fn member(py: Python<'_>, state: VmState) -> PyResult<Py<PyAny>> {
    static MEMBERS: PyOnceLock<Vec<Py<PyAny>>> = PyOnceLock::new();
    let members = MEMBERS.get_or_try_init(py, || {
        let class = class(py, "VmState")?;
        VmState::ALL.iter().map(|state| Ok(class.call1((state.as_str(),))?.unbind())).collect::<PyResult<_>>()
    })?;
    let place = VmState::ALL.iter().position(|one| *one == state).unwrap_or_default();
    Ok(members[place].clone_ref(py))
}

macro_rules! listed {
    ($name:ident = $class:literal, $field:expr; $($getters:tt)*) => {
        #[doc = concat!("What stands for `limen.", $class, "`.")]
        #[pyclass(frozen, name = $class, module = "limen")]
        #[derive(Debug)]
        pub(crate) struct $name(Part);

        #[pymethods]
        impl $name {
            $($getters)*

            #[getter]
            fn __class__(&self, py: Python<'_>) -> PyResult<Py<PyType>> {
                static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
                let class = CLASS.get_or_try_init(py, || Ok::<_, PyErr>(class(py, $class)?.unbind()))?;
                Ok(class.clone_ref(py))
            }

            fn __getattr__<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
                self.0.made(py, $field)?.getattr(name)
            }

            fn __setattr__(&self, name: &str, _value: &Bound<'_, PyAny>) -> PyResult<()> {
                Err(PyAttributeError::new_err(format!(concat!($class, " cannot be changed: {}"), name)))
            }

            fn __delattr__(&self, name: &str) -> PyResult<()> {
                Err(PyAttributeError::new_err(format!(concat!($class, " cannot be changed: {}"), name)))
            }

            fn __richcmp__<'py>(
                &self,
                py: Python<'py>,
                other: &Bound<'py, PyAny>,
                how: CompareOp,
            ) -> PyResult<Bound<'py, PyAny>> {
                self.0.made(py, $field)?.rich_compare(other, how)
            }

            fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
                self.0.made(py, $field)?.hash()
            }

            fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
                Ok(self.0.made(py, $field)?.repr()?.to_string())
            }

            fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                self.0.made(py, $field)?.call_method0("__reduce__")
            }

            fn __dir__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                self.0.made(py, $field)?.call_method0("__dir__")
            }
        }
    };
}

listed! { ListVm = "Vm", None;
    #[getter]
    fn id(&self) -> String {
        self.0.vm().id.to_string()
    }

    #[getter]
    fn name(&self) -> &str {
        &self.0.vm().name
    }

    #[getter]
    fn host(&self) -> &str {
        &self.0.vm().host
    }

    #[getter]
    fn spec(&self) -> Option<ListSpec> {
        self.0.vm().spec.is_some().then(|| ListSpec(self.0.part()))
    }

    #[getter]
    fn observed_spec(&self) -> Option<ListObserved> {
        self.0.vm().observed_spec.is_some().then(|| ListObserved(self.0.part()))
    }

    #[getter]
    fn status(&self) -> ListStatus {
        ListStatus(self.0.part())
    }
}

impl ListSpec {
    fn spec(&self) -> Option<&VmSpec> {
        self.0.vm().spec.as_ref()
    }
}

listed! { ListSpec = "VmSpec", Some("spec");
    #[getter]
    fn vcpus(&self) -> Option<u32> {
        self.spec().map(|spec| spec.vcpus)
    }

    #[getter]
    fn memory_mib(&self) -> Option<u64> {
        self.spec().map(|spec| spec.memory_mib)
    }
}

impl ListObserved {
    fn spec(&self) -> Option<&ObservedSpec> {
        self.0.vm().observed_spec.as_ref()
    }
}

listed! { ListObserved = "ObservedSpec", Some("observed_spec");
    #[getter]
    fn vcpus(&self) -> Option<u32> {
        self.spec().map(|spec| spec.vcpus)
    }

    #[getter]
    fn memory_mib(&self) -> Option<u64> {
        self.spec().map(|spec| spec.memory_mib)
    }
}

impl ListStatus {
    fn status(&self) -> &VmStatus {
        &self.0.vm().status
    }
}

listed! { ListStatus = "VmStatus", Some("status");
    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        member(py, self.status().state)
    }

    #[getter]
    fn reason(&self) -> Option<&str> {
        self.status().reason.as_deref()
    }

    #[getter]
    fn stale(&self) -> bool {
        self.0.listed().stale
    }
}
